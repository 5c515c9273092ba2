"""Keeps the model server as the operators decided, whatever it forgot meanwhile."""

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable

from handlers.contract.names import ModelVersion
from portal.deployments.locks import ModelLocks
from portal.deployments.records import Audit, AuditOutcome, Default, Deployment
from portal.deployments.recovery import settle, take_back
from portal.deployments.scale_to_zero import ScaleToZero
from portal.deployments.steps import CALL_TIMEOUT, Steps
from portal.errors import ChangeFailed, ModelBusy, PortalError
from portal.jobs import Jobs
from portal.serving.model_server import ServedVersion

log = logging.getLogger("portal.deployments.reconciler")

LOOK_EVERY = 2.0  # seconds between two looks
LOOK_TIMEOUT = 5.0  # seconds for one look at everything that is served
RETRY = 60.0  # seconds until what failed is tried again

# What is to be done, with which version, and how: a sentence about it is returned.
Act = tuple[str, Deployment, Callable[[Deployment], str]]


class Reconciler:
    """Compares what is recorded with what is served, and changes what is served.

    - A model of which nothing is recorded is taken over as it is: the first start.
    - A recorded version that is missing is registered again; one that was withdrawn, or whose
      deploy was cut off, is unregistered; the recorded default is made the default.
    - A version that is not recorded, of a model that is, was registered by hand: it is left alone.
    - A lazy version loses its workers while nobody asks it.
    - A change during which a portal ended is finished or taken back: see ``recovery``.

    It looks without a lock. A model in which something differs is locked and looked at once more
    before anything is done; one that is locked already is being changed, and left alone.
    """

    def __init__(
        self, steps: Steps, jobs: Jobs, locks: ModelLocks, scale_to_zero: ScaleToZero
    ) -> None:
        self._steps = steps
        self._jobs = jobs
        self._locks = locks
        self._scale_to_zero = scale_to_zero
        self._server = steps.server
        self._records = steps.records
        self._failed: dict[tuple[str, ModelVersion], float] = {}  # what -> time.monotonic() of it

    def start(self) -> None:
        """Look now and then, in a thread of its own, for as long as the portal runs."""
        threading.Thread(target=self._run, name="portal-reconciler", daemon=True).start()

    def look(self) -> None:
        """Compare and change once.

        Raises:
            PortalError: the server cannot be asked, or the database not be used.
        """
        served, recorded = self._compared()
        defaults = self._records.defaults()
        cut_off = {job.model for job in self._jobs.unfinished()}
        self._steps.gates.follow()
        for model in sorted(served.keys() | recorded.keys() | cut_off):
            for row in recorded[model]:
                self._scale_to_zero.remember(row.name, row.workers)
            if (
                model in cut_off
                or any(self._scale_to_zero.is_lazy(found.name) for found in served[model])
                or _to_adopt(served[model], recorded[model])
                or self._to_do(served[model], recorded[model], defaults.get(model))
            ):
                self._change(model)

    def _compared(self) -> tuple[dict[str, list[ServedVersion]], dict[str, list[Deployment]]]:
        """What is served of each model, and what is recorded of it."""
        served: dict[str, list[ServedVersion]] = defaultdict(list)
        for found in self._server.served(LOOK_TIMEOUT):
            served[found.name.model].append(found)
        recorded: dict[str, list[Deployment]] = defaultdict(list)
        for row in self._records.deployments():
            recorded[row.model].append(row)
        return served, recorded

    def _change(self, model: str) -> None:
        """Look at one model again and do what is to be done, if nobody else changes it."""
        try:
            self._locks.take(model, patience=0)
        except ModelBusy:
            return
        try:
            for job in self._jobs.unfinished(model):
                settle(self._steps, self._jobs, job)
            all_served, all_recorded = self._compared()
            served, recorded = all_served[model], all_recorded[model]
            for found in _to_adopt(served, recorded):
                self._adopt(found)
            default = self._records.defaults().get(model)
            for act in self._to_do(served, recorded, default):
                self._attempt(act)
            self._scale_to_zero.let_sleep(model, served)
        finally:
            self._locks.free(model)

    def _run(self) -> None:
        told = ""
        while True:
            try:
                self.look()
                told = ""
            except PortalError as error:
                if str(error) != told:
                    log.warning("nothing can be kept as it is recorded: %s", error)
                told = str(error)
            except Exception:  # the next look may succeed, and nobody else would look
                log.exception("a look at the model server failed")
            time.sleep(LOOK_EVERY)

    def _adopt(self, found: ServedVersion) -> None:
        self._records.serve(self._steps.adopted(found, "model server"), default=found.default)
        said = "It was served at the first start."
        name = found.name
        self._records.record(Audit("portal", "adopt", name.model, name.version, "done", said))
        log.info("%s is served already and taken over", found.name)

    def _to_do(
        self, served: list[ServedVersion], recorded: list[Deployment], default: Default | None
    ) -> list[Act]:
        """What makes one model served as it is recorded, in this order; nothing if it is."""
        here = {found.name: found for found in served}
        first = default.name if default is not None else None
        acts: list[Act] = []
        later: list[Act] = []
        # the default first: TorchServe makes the first version of a model the default one
        for row in sorted(recorded, key=lambda row: row.name != first):
            found = here.get(row.name)
            if row.wanted == "deploying":
                later.append(("deploy", row, self._cut_off))
            elif row.wanted == "withdrawn":
                if found is not None and not found.default:
                    later.append(("unregister", row, self._unregister))
            elif found is None:
                acts.append(("restore", row, self._restore))
            elif found.workers_wanted != row.workers and not self._scale_to_zero.is_lazy(row.name):
                acts.append(("scale", row, self._scale))
            # as soon as it can answer
            if row.name == first and found and not found.default and found.workers_ready:
                later.insert(0, ("set default", row, self._set_default))
        before = time.monotonic() - RETRY  # what was tried in vain since then is not due yet
        return [a for a in acts + later if self._failed.get((a[0], a[1].name), -math.inf) <= before]

    def _attempt(self, act: Act) -> None:
        """Do one change and record it; one that failed is told once, and left alone for a while."""
        action, deployment, change = act
        target = deployment.name
        tried_before = (action, target) in self._failed
        outcome: AuditOutcome = "done"
        try:
            reason = change(deployment)
        except PortalError as error:
            outcome, reason = "failed", str(error)
            self._failed[action, target] = time.monotonic()
        else:
            self._failed.pop((action, target), None)
        level = logging.INFO if outcome == "done" else logging.WARNING
        log.log(level, "%s %s %s: %s", action, target, outcome, reason)
        if not tried_before or outcome == "done":
            line = Audit("portal", action, target.model, target.version, outcome, reason)
            self._records.record(line)

    def _restore(self, deployment: Deployment) -> str:
        target = deployment.name
        archive = self._steps.archives.get(target)
        workers = 0 if self._scale_to_zero.is_lazy(target) else deployment.workers
        self._server.register(target, workers, CALL_TIMEOUT)
        said = "TorchServe did not have it any more."
        if archive.sha256 == deployment.sha256:
            return said
        former = deployment.sha256[:12] or "unknown"
        self._records.change(target, sha256=archive.sha256, size_bytes=archive.size_bytes)
        new = archive.sha256[:12]
        return f"{said} Its archive was built anew meanwhile: sha256 {new}, before {former}."

    def _scale(self, deployment: Deployment) -> str:
        found = self._steps.served(deployment.name)
        self._server.scale(deployment.name, deployment.workers, CALL_TIMEOUT)
        return f"It had {found.workers_wanted} workers instead of {deployment.workers}."

    def _set_default(self, deployment: Deployment) -> str:
        self._server.set_default(deployment.name, CALL_TIMEOUT)
        return "TorchServe had another default."

    def _cut_off(self, deployment: Deployment) -> str:
        """Take back a deploy that could not be taken back at its own end, or by ``recovery``."""
        take_back(self._steps, deployment)
        raise ChangeFailed("This deploy did not end well. It was taken back now; try again.")

    def _unregister(self, deployment: Deployment) -> str:
        target = deployment.name
        gate = self._server.gate
        gate.close(target)
        if gate.in_flight(target):
            raise ChangeFailed("It still answers what it was asked.")
        self._steps.remove(target)
        gate.open(target)
        return "It is not to be served, but TorchServe had loaded it."


def _to_adopt(served: list[ServedVersion], recorded: list[Deployment]) -> list[ServedVersion]:
    """What is served of a model of which nothing is to be served: it is taken over as it is."""
    known = {row.name: row.wanted for row in recorded}
    first = all(wanted == "withdrawn" for wanted in known.values())
    return [found for found in served if first and found.name not in known]
