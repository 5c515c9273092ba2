"""Serve the product until Ctrl-C: ``python -m deploy.serve [--port 8000] [--stop]``.

Starts TorchServe, the portal and the worker of scenes, waits until a real prediction succeeds, and
then watches them: a TorchServe or a worker that ends is started again. When TorchServe or the
portal cannot be kept running all are ended; without the worker they live on.
"""

import argparse
import logging
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from deploy import CannotServe
from deploy.java import find_java
from deploy.lock import only_one, stop
from deploy.product import SAMPLE, Product
from deploy.settings import Settings, archives, check_ports
from portal.settings import BadSetting
from portal.settings import Settings as PortalSettings

ROOT = Path(__file__).resolve().parent.parent
READY_WITHIN = 180  # seconds until the first prediction; a slow disk takes one minute for torch
RESTARTS = 5  # of a program within RESTART_WINDOW seconds, then it is given up
RESTART_WINDOW = 300

log = logging.getLogger("serve")


class Ending:
    """Whether the product was asked to end: by Ctrl-C, ``--stop`` or a closing terminal."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup ignores SIGHUP so that its program outlives the terminal
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True

    def within(self, seconds: float) -> bool:
        """Wait for at most ``seconds``; return early, with True, when asked to end."""
        deadline = time.monotonic() + seconds
        while not self.asked and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.asked


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.serve", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address of the portal")
    parser.add_argument("--port", type=int, default=8000, help="port of the portal")
    parser.add_argument("--config", type=Path, default=ROOT / "config.properties")
    parser.add_argument("--run-dir", type=Path, default=ROOT / ".run", help="for keys and logs")
    parser.add_argument("--stop", action="store_true", help="end the product that runs")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    config, run_dir = given.config.resolve(), given.run_dir.resolve()
    settings = Settings(ROOT, config, run_dir, given.host, given.port)
    try:
        return stop(settings) if given.stop else serve(settings)
    except (CannotServe, BadSetting) as error:
        log.error("%s", error)  # noqa: TRY400  (a sentence for the user, no traceback)
    except OSError as error:
        log.error("Cannot serve: %s", error)  # noqa: TRY400  (a full disk, a read-only folder)
    return 1


def serve(settings: Settings) -> int:
    """Serve until asked to end; return 0 then. CannotServe or BadSetting when it is impossible."""
    ending = Ending()
    with only_one(settings):
        portal = PortalSettings.from_environment(os.environ)
        archives(settings)  # before anything is started: is there something to serve?
        check_ports(settings)
        java_home = find_java(os.environ)
        product = Product(settings, java_home)
        try:
            log.info(
                "Starting TorchServe (Java: %s), the portal and the worker of scenes",
                java_home / "bin" / "java",
            )
            product.start_torchserve()
            product.start_portal()
            product.start_scenes()
            if wait_until_ready(product, ending):
                announce(settings, public=portal.public)
                watch(product, ending)
        finally:
            log.info("Ending the portal, the worker of scenes and TorchServe")
            product.stop()
            log.info("Ended")
    return 0


def wait_until_ready(product: Product, ending: Ending) -> bool:
    """Wait for the first prediction; return False when asked to end before.

    CannotServe when a program ends by itself, or after READY_WITHIN seconds.
    """
    started, told = time.monotonic(), 0.0
    while not ending.within(0.5):
        for child in (product.torchserve, product.portal):
            if not child.running:
                raise CannotServe(f"The {child.name} ended at its start: see {child.log}.")
        status, answer = product.predict_sample()
        if status == 200:
            return True
        waited = time.monotonic() - started
        if waited > READY_WITHIN:
            raise CannotServe(
                f"No prediction within {READY_WITHIN} seconds: see {product.settings.logs}. "
                f"The portal's last answer: {status} {answer.strip()}"
            )
        if waited - told >= 5:
            told = waited
            log.info("Waiting for the first prediction: %.0f s", waited)
    return False


def announce(settings: Settings, *, public: bool) -> None:
    """Say where the product is, with a command that works from the checkout as it stands."""
    proof = "" if public else '-H "Authorization: Bearer <token>" '
    print(f"\nReady:  {settings.url}")
    print(f"Try:    curl {proof}-F file=@{SAMPLE} {settings.url}/api/predict")
    print(f"Logs:   {settings.logs}")
    print("End:    Ctrl-C, or `make stop`\n", flush=True)


class Restarts:
    """When a program that ended by itself was started again lately."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def pause(self) -> int | None:
        """Seconds until it is to be started again: 1, 2, 4, 8, 16; None: too often lately."""
        now = time.monotonic()
        self._times = [then for then in self._times if now - then < RESTART_WINDOW]
        return None if len(self._times) == RESTARTS else 2 ** len(self._times)

    def note(self) -> None:
        """It is started again now."""
        self._times.append(time.monotonic())


class SceneKeeper:
    """Keeps the worker of scenes running; it may be down for a while, as scenes wait for it."""

    def __init__(self, product: Product) -> None:
        self._product = product
        self._restarts = Restarts()
        self._due: float | None = None  # time.monotonic() of the next start
        self._given_up = False

    def look(self) -> None:
        """Start the worker again if it has ended and the time has come."""
        scenes = self._product.scenes
        if scenes.running:
            return
        if self._due is None:
            pause = self._restarts.pause()
            if pause is None:
                if not self._given_up:
                    log.error(
                        "The worker of scenes ended %d times in %d seconds: see %s. The portal "
                        "goes on; scenes wait until it is tried again.",
                        RESTARTS + 1, RESTART_WINDOW, scenes.log,
                    )  # fmt: skip
                self._given_up = True
                return
            log.warning("The worker of scenes ended by itself; starting it again in %d s", pause)
            scenes.stop(grace=0)  # what it had started may have outlived it
            self._due = time.monotonic() + pause
        elif time.monotonic() >= self._due:
            self._due, self._given_up = None, False
            self._restarts.note()
            self._product.start_scenes()


def watch(product: Product, ending: Ending) -> None:
    """Keep the product running until asked to end; CannotServe when that is impossible."""
    restarts, scenes = Restarts(), SceneKeeper(product)
    while not ending.within(0.5):
        if not product.portal.running:
            raise CannotServe(f"The portal ended by itself: see {product.portal.log}.")
        scenes.look()
        if product.torchserve.running:
            continue
        pause = restarts.pause()
        if pause is None:
            raise CannotServe(
                f"TorchServe ended {RESTARTS + 1} times in {RESTART_WINDOW} seconds: "
                f"see {product.torchserve.log} and ts_log.log beside it."
            )
        log.warning("TorchServe ended by itself; starting it again in %d s", pause)
        product.torchserve.stop(grace=0)  # its workers may have outlived it
        if ending.within(pause):
            return
        restarts.note()
        product.start_torchserve()


if __name__ == "__main__":
    sys.exit(main())
