"""Keeps the model server as the operators decided, whatever it forgot meanwhile."""

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable

from handlers.contract.names import ModelVersion
from portal.deployments.locks import ModelLocks
from portal.deployments.records import Deployment, Outcome
from portal.deployments.scale_to_zero import ScaleToZero
from portal.deployments.steps import CALL_TIMEOUT, Steps
from portal.errors import ChangeFailed, ModelBusy, PortalError
from portal.serving.model_server import ServedVersion

log = logging.getLogger("portal.deployments.reconciler")

EVERY = 2.0  # seconds between two looks
LOOK_TIMEOUT = 5.0  # seconds for one look at everything that is served
RETRY = 60.0  # seconds until what failed is tried again
ACTOR = "portal"  # who acts, in the audit
FOUND = "model server"  # who deployed what was running before anything was recorded


class Reconciler:
    """Compares what is recorded with what is served, and changes what is served.

    - A model of which nothing is recorded is taken over as it is: the first start.
    - A recorded version that is missing is registered again; one that was withdrawn, or whose
      deploy was cut off, is unregistered; the recorded default is made the default.
    - A version that is not recorded, of a model that is, was registered by hand: it is left alone.
    - A lazy version loses its workers while nobody asks it.
    """

    def __init__(self, steps: Steps, locks: ModelLocks, scale_to_zero: ScaleToZero) -> None:
        self._steps = steps
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
        served: dict[str, list[ServedVersion]] = defaultdict(list)
        for found in self._server.served(LOOK_TIMEOUT):
            served[found.name.model].append(found)
        recorded: dict[str, list[Deployment]] = defaultdict(list)
        for deployment in self._records.deployments():
            recorded[deployment.model].append(deployment)
        for model in sorted(served.keys() | recorded.keys()):
            try:
                self._locks.take(model)
            except ModelBusy:
                continue  # an operator's change is under way
            try:
                rows = recorded[model]
                if all(row.wanted == "withdrawn" for row in rows):
                    self._adopt(served[model], {row.name for row in rows})
                self._keep(model, served[model], rows)
                self._scale_to_zero.let_sleep(model, served[model])
            finally:
                self._locks.free(model)

    def _run(self) -> None:
        told = ""
        while True:
            problem = ""
            try:
                self.look()
            except PortalError as error:
                problem = str(error)
            except Exception:  # the next look may succeed, and nobody else would look
                log.exception("a look at the model server failed")
            if problem and problem != told:
                log.warning("nothing can be kept as it is recorded: %s", problem)
            told = problem
            time.sleep(EVERY)

    def _adopt(self, served: list[ServedVersion], withdrawn: set[ModelVersion]) -> None:
        for found in served:
            if found.name in withdrawn:
                continue
            deployment = self._steps.adopted(found, FOUND)
            self._records.serve(deployment, default=found.default)
            model, version = found.name.model, found.name.version
            self._records.record(
                ACTOR, "adopt", model, version, "done", "It was served at the first start."
            )
            log.info("%s is served already and taken over", found.name)

    def _keep(self, model: str, served: list[ServedVersion], recorded: list[Deployment]) -> None:
        here = {found.name: found for found in served}
        default = self._records.defaults().get(model)
        first = default.name if default is not None else None
        # the default first: TorchServe makes the first version of a model the default one
        for deployment in sorted(recorded, key=lambda row: row.name != first):
            found = here.get(deployment.name)
            if deployment.wanted == "served" and found is None:
                self._attempt("restore", deployment, self._restore)
            elif deployment.wanted == "served" and found is not None:
                self._keep_workers(deployment, found)
        if default is not None:
            self._keep_default(recorded, here.get(default.name))
        for deployment in recorded:
            found = here.get(deployment.name)
            if deployment.wanted == "deploying":
                self._attempt("deploy", deployment, self._cut_off)
            elif deployment.wanted == "withdrawn" and found is not None and not found.default:
                self._attempt("unregister", deployment, self._unregister)

    def _attempt(
        self, action: str, deployment: Deployment, change: Callable[[Deployment], str]
    ) -> None:
        """Do one change and record it; one that failed is left alone for a while."""
        target = deployment.name
        tried = self._failed.get((action, target))
        if tried is not None and time.monotonic() - tried < RETRY:
            return
        outcome: Outcome = "done"
        try:
            reason = change(deployment)
        except PortalError as error:
            outcome, reason = "failed", str(error)
            self._failed[action, target] = time.monotonic()
        else:
            self._failed.pop((action, target), None)
        log.log(
            logging.INFO if outcome == "done" else logging.WARNING,
            "%s %s %s: %s", action, target, outcome, reason,
        )  # fmt: skip
        if tried is None or outcome == "done":
            self._records.record(ACTOR, action, target.model, target.version, outcome, reason)

    def _restore(self, deployment: Deployment) -> str:
        target = deployment.name
        archive = self._steps.archives.get(target)
        workers = 0 if self._scale_to_zero.is_lazy(target) else deployment.workers
        self._server.register(target, workers, CALL_TIMEOUT)
        if archive.sha256 == deployment.sha256:
            return "TorchServe did not have it any more."
        former = deployment.sha256[:12] or "unknown"
        self._records.change(target, sha256=archive.sha256, size_bytes=archive.size_bytes)
        return (
            "TorchServe did not have it any more. Its archive was built anew meanwhile: sha256 "
            f"{archive.sha256[:12]}, before {former}."
        )

    def _keep_workers(self, deployment: Deployment, found: ServedVersion) -> None:
        target = deployment.name
        self._scale_to_zero.remember(target, deployment.workers)
        if found.workers_wanted == deployment.workers or self._scale_to_zero.is_lazy(target):
            return

        def change(_deployment: Deployment) -> str:
            self._server.scale(target, deployment.workers, CALL_TIMEOUT)
            return f"It had {found.workers_wanted} workers instead of {deployment.workers}."

        self._attempt("scale", deployment, change)

    def _keep_default(self, recorded: list[Deployment], found: ServedVersion | None) -> None:
        """Switch to the recorded default as soon as it can answer."""
        if found is None or found.default or found.workers_ready == 0:
            return
        (deployment,) = (row for row in recorded if row.name == found.name)

        def change(_deployment: Deployment) -> str:
            self._server.set_default(found.name, CALL_TIMEOUT)
            return "TorchServe had another default."

        self._attempt("set default", deployment, change)

    def _cut_off(self, deployment: Deployment) -> str:
        """Take back a deploy during which the portal ended."""
        default = self._records.defaults().get(deployment.model)
        found = self._server.default(deployment.model, CALL_TIMEOUT)
        if found is not None and found.name == deployment.name and default is not None:
            self._server.set_default(default.name, CALL_TIMEOUT)
        self._steps.remove(deployment.name)
        self._records.withdraw(deployment.name)
        raise ChangeFailed("The portal ended during this deploy. It was taken back; try again.")

    def _unregister(self, deployment: Deployment) -> str:
        target = deployment.name
        gate = self._server.gate
        gate.close(target)
        if gate.in_flight(target):
            raise ChangeFailed("It still answers what it was asked.")
        self._steps.remove(target)
        gate.open(target)
        return "It is not to be served, but TorchServe had loaded it."
