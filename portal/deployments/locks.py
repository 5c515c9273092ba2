"""At most one change of a model at a time."""

import threading

from portal.errors import ModelBusy


class ModelLocks:
    """One lock for each model. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: set[str] = set()

    def take(self, model: str) -> None:
        """Lock a model; any thread may free it again.

        Raises:
            ModelBusy: it is locked.
        """
        with self._lock:
            if model in self._taken:
                raise ModelBusy(
                    f"Another change of {model} is under way. Wait until it has ended; /models "
                    "shows it."
                )
            self._taken.add(model)

    def free(self, model: str) -> None:
        """Unlock a model."""
        with self._lock:
            self._taken.discard(model)
