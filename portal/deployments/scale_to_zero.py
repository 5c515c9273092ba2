"""Lazy versions: they lose their workers while nobody asks them, and get them back when one does.

Each worker costs half a gigabyte. Which versions are lazy is a setting.
"""

import logging
import threading
import time
from collections.abc import Callable

from handlers.contract.names import ModelVersion
from portal.deployments.steps import CALL_TIMEOUT
from portal.errors import ModelNotReady
from portal.serving.model_server import ModelServer, ServedVersion
from portal.settings import Settings

log = logging.getLogger("portal.deployments.scale_to_zero")

WAKE_POLL = 0.1  # seconds between two looks at a version that wakes


class ScaleToZero:
    """Puts lazy versions to sleep, and wakes them. Safe to use from many threads.

    Args:
        needed: the versions that another process asks, or is about to: they are kept awake.
    """

    def __init__(
        self,
        server: ModelServer,
        settings: Settings,
        needed: Callable[[], set[ModelVersion]] = set,
    ) -> None:
        self._server = server
        self._needed = needed
        self._settings = settings
        self._workers: dict[ModelVersion, int] = {}  # of each version while it is awake
        self._sleeping = threading.Lock()
        server.gate.waker = self.wake

    def is_lazy(self, target: ModelVersion) -> bool:
        """Whether the settings let a version sleep."""
        return bool({target.model, target.slug} & self._settings.lazy)

    def remember(self, target: ModelVersion, workers: int) -> None:
        """Note how many workers a version is to have while it is awake."""
        self._workers[target] = workers

    def let_sleep(self, model: str, served: list[ServedVersion]) -> None:
        """Note which versions of a model sleep; end the workers of those that nobody asks."""
        gate = self._server.gate
        gate.set_lazy(
            model,
            {found.name: found.workers_ready == 0 for found in served if self.is_lazy(found.name)},
        )
        needed = self._needed() if any(self.is_lazy(found.name) for found in served) else set()
        for found in served:
            with self._sleeping:
                if found.name in needed and self.is_lazy(found.name):
                    gate.touch(found.name)
                    if found.workers_wanted == 0:
                        self._server.scale(
                            found.name, self._workers.get(found.name, 1), CALL_TIMEOUT
                        )
                        log.info("%s wakes", found.name)
                elif gate.fall_asleep(found.name, self._settings.lazy_idle):
                    self._server.scale(found.name, 0, CALL_TIMEOUT)
                    log.info("%s sleeps", found.name)

    def wake(self, target: ModelVersion, deadline: float) -> None:
        """Start the workers of a version that sleeps; return when one is ready.

        Args:
            deadline: time.monotonic() of it.

        Raises:
            ModelNotReady: none is in time; the version goes on waking.
        """
        scaled = False
        while (left := deadline - time.monotonic()) > 0:
            with self._sleeping:  # not while it is being put to sleep
                found = self._server.describe(target, left)
                if found is not None and found.workers_wanted == 0 and not scaled:
                    workers = self._workers.get(target, 1)
                    self._server.scale(target, workers, CALL_TIMEOUT)
                    scaled = True
                    log.info("%s wakes", target)
            if found is not None and found.workers_ready > 0:
                self._server.gate.awake(target)
                return
            time.sleep(WAKE_POLL)
        raise ModelNotReady(f"{target} was asleep and is waking. Try again in a few seconds.")
