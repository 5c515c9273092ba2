"""Workers that start: telling a slow one from one that never will be ready."""

import time

from portal.serving.model_server import ServedVersion

CRASHES = 2  # changes of process id without a ready worker between them that make a crash loop


class WorkerStartup:
    """Watches one version from the moment at which it has no ready worker."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._pids: set[int] = set()

    @property
    def seconds(self) -> float:
        """How long it is watched."""
        return time.monotonic() - self._since

    def problem(self, found: ServedVersion) -> str | None:
        """Why it will not be ready; None while it may."""
        # A worker without a process yet has the id -1.
        self._pids |= {worker.pid for worker in found.workers if worker.pid > 0}
        crashed = len(self._pids) >= (CRASHES + 1) * max(found.workers_wanted, 1)
        if found.workers_ready == 0 and crashed:
            return "its worker crashes again and again; see TorchServe's model log"
        if self.seconds > found.startup_timeout:
            return f"no worker became ready within {found.startup_timeout:g} s"
        return None
