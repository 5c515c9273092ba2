"""Windows of a scene, asked about through one archive, without a model server."""

import numpy as np

from portal.errors import NothingToSee, PortalError
from portal.scenes.classifier import answers_of, encode
from portal.scenes.scene import Answers
from portal.serving.archive_model import ArchiveModel
from portal.serving.model_server import Prediction


class ArchiveClassifier(ArchiveModel):
    """An ``ArchiveModel`` that is a ``Classifier``, for one thread."""

    def __call__(self, windows: np.ndarray) -> Answers:
        """The answers, row by row."""
        name = self.archive.name
        found = self.predict_bundle(encode(windows), name)
        return answers_of(list(map(_seen, found)), sorted(self.archive.labels), name)


def _seen(outcome: Prediction | PortalError) -> Prediction | None:
    """The prediction; None where there is nothing to see. Any other error is raised."""
    if isinstance(outcome, NothingToSee):
        return None
    if isinstance(outcome, PortalError):
        raise outcome
    return outcome
