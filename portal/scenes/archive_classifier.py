"""Windows of a scene, asked about through one archive, without a model server."""

from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from portal.errors import NothingToSee, PortalError
from portal.scenes.classifier import answers_of, encode
from portal.scenes.scene import Answers
from portal.serving.archive_model import ANSWER_TIMEOUT, ArchiveModel
from portal.serving.model_server import Prediction


class ArchiveClassifier:
    """A ``Classifier`` around an ``ArchiveModel``, with its arguments and errors; for one thread.

    A context manager, as the model's process must end.

    Attributes:
        archive: what is inside.
    """

    def __init__(self, path: Path, answer_timeout: float = ANSWER_TIMEOUT) -> None:
        self._model = ArchiveModel(path, answer_timeout)
        self.archive = self._model.archive

    def __call__(self, windows: np.ndarray) -> Answers:
        """The answers, row by row."""
        name = self.archive.name
        found = self._model.predict_bundle(encode(windows), name)
        return answers_of(list(map(_seen, found)), sorted(self.archive.labels), name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the model's process, if one runs."""
        self._model.close()


def _seen(outcome: Prediction | PortalError) -> Prediction | None:
    """The prediction; None where there is nothing to see. Any other error is raised."""
    if isinstance(outcome, NothingToSee):
        return None
    if isinstance(outcome, PortalError):
        raise outcome
    return outcome
