"""Asks the model of one archive, without a model server.

The archive's own code answers, in a process of its own, and gets the bytes that it would get from
TorchServe: so its answers are those of the portal.
"""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

from handlers.contract.names import ModelVersion
from handlers.contract.tile_bundle import pack
from portal.catalog.archive_inspection import inspect
from portal.errors import (
    BadArchive,
    ModelNotReady,
    NoExplanations,
    PortalError,
    TooSlow,
    UnknownModel,
)
from portal.serving.model_server import Explanation, Prediction
from portal.serving.torchserve import answers

BUNDLE = 64  # images; what the handlers of older archives take as well
ANSWER_TIMEOUT = 120.0  # seconds for a bundle, which takes 0.1 on a core that does nothing else
PROCESS = Path(__file__).with_name("archive_process.py")
# As TorchServe's workers: they run the code of archives and inherit no secrets, nor other code.
_WITHHELD = re.compile(r"PORTAL_.*|PYTHONPATH|.*(TOKEN|SECRET|PASSWORD|KEY).*")
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class ArchiveModel:
    """An ``Answering`` around one ``.mar``, without a model server.

    A context manager, as its process must end. The process starts with the first images, and anew
    after one that ended; it answers one thread at a time. Whatever version is asked for, it is this
    archive's that answers, and deadlines are its own.

    Args:
        path: called as in the model store, such as ``baseline-1.2.mar``.
        answer_timeout: seconds for one bundle, after which the process is given up.

    Attributes:
        archive: what is inside.

    Raises:
        BadArchive: when made, what ``portal.catalog.archive_inspection.inspect`` finds; when
            asked, the archive does not load.
        ModelNotReady, TooSlow: when asked, its process ended, or gave no answer.
        BadAnswer: when asked, it answered what no model may.
    """

    def __init__(self, path: Path, answer_timeout: float = ANSWER_TIMEOUT) -> None:
        self.archive = inspect(path, path.name, sys.maxsize)
        self._path = path
        self._answer_timeout = answer_timeout
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._takes_bundles = True

    def default_version(self, model: str, timeout: float | None = None) -> ModelVersion:  # noqa: ARG002
        """The only one."""
        if model != self.archive.model:
            raise UnknownModel(f"{self._path.name} has no model {model}.")
        return self.archive.name

    def predict(
        self,
        image: bytes,
        served: ModelVersion,  # noqa: ARG002
        timeout: float | None = None,  # noqa: ARG002
    ) -> Prediction:
        """Classify one image; see ``Answering.predict``."""
        outcome = self._alone(image)
        if isinstance(outcome, PortalError):
            raise outcome
        return outcome

    def predict_bundle(
        self,
        images: list[bytes],
        served: ModelVersion,  # noqa: ARG002
        timeout: float | None = None,  # noqa: ARG002
    ) -> list[Prediction | PortalError]:
        """Classify any number of images; see ``Answering.predict_bundle``."""
        found: list[Prediction | PortalError] = []
        for start in range(0, len(images), BUNDLE):
            found += self._classify(images[start : start + BUNDLE])
        return found

    def explain(
        self,
        image: bytes,  # noqa: ARG002
        served: ModelVersion,
        timeout: float | None = None,  # noqa: ARG002
    ) -> Explanation:
        """Not without a model server."""
        raise NoExplanations(f"{served} explains its answers through a model server only.")

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
        """End the process, if one runs."""
        if self._process is not None:
            self._process.end()
            self._process = None

    def _classify(self, images: list[bytes]) -> list[Prediction | PortalError]:
        if self._takes_bundles and len(images) > 1:
            started = time.monotonic()
            content = self._ask(pack(images))
            if not _refused(content):
                elapsed = time.monotonic() - started
                found = answers.predictions(content, len(images), self.archive.name, elapsed)
                return [
                    self._alone(image) if outcome is None else outcome
                    for image, outcome in zip(images, found, strict=True)
                ]
            self._takes_bundles = False  # to an older handler it is no image
        return [self._alone(image) for image in images]

    def _alone(self, image: bytes) -> Prediction | PortalError:
        started = time.monotonic()
        answer = answers.strict_json(self._ask(image))
        return answers.outcome(answer, self.archive.name, time.monotonic() - started)

    def _ask(self, body: bytes) -> bytes:
        with self._lock:
            if self._process is None:
                if inspect(self._path, self._path.name, sys.maxsize) != self.archive:
                    raise BadArchive(f"{self._path.name} is another archive than at the start.")
                self._process = _Process(self._path, self.archive.startup_timeout)
            try:
                return self._process.ask(body, self._answer_timeout)
            except BaseException:
                self.close()  # what it answers now would be taken for the answer to the next bundle
                raise


class _Process:
    """The archive's code in a folder and a process of its own, with one thread."""

    def __init__(self, path: Path, startup_timeout: float) -> None:
        self._name = path.name
        self._folder = tempfile.TemporaryDirectory(
            prefix="landuse-archive-", ignore_cleanup_errors=True
        )
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `end`
        with zipfile.ZipFile(path) as content:
            content.extractall(self._folder.name)
        environ = {name: text for name, text in os.environ.items() if not _WITHHELD.fullmatch(name)}
        self._line: Connection
        self._line, its_end = Pipe()
        with its_end:
            self._child = subprocess.Popen(
                [sys.executable, str(PROCESS), str(its_end.fileno())],
                cwd=self._folder.name,
                env=environ | _ONE_THREAD,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                pass_fds=[its_end.fileno()],
                start_new_session=True,  # Ctrl-C is for whoever asks: this ends with it
            )
        try:
            self._receive(startup_timeout)
        except PortalError as error:
            reason = f"its handler does not load: {error}{self._last_words()}"
            self.end()
            raise BadArchive(f"{path.name} cannot be used: {reason}") from error
        except BaseException:
            self.end()
            raise

    def ask(self, body: bytes, timeout: float) -> bytes:
        """The handler's answer to one body."""
        try:
            self._line.send_bytes(body)
        except ConnectionError as error:
            raise self._ended() from error
        return self._receive(timeout)

    def end(self) -> None:
        """End it at once; it keeps nothing."""
        self._child.kill()
        self._child.wait()
        self._line.close()
        self._log.close()
        self._folder.cleanup()

    def _receive(self, timeout: float) -> bytes:
        try:
            if not self._line.poll(timeout):
                raise TooSlow(
                    f"The process of {self._name} did not answer within {timeout:g} s. Try again "
                    "when there is less to do."
                )
            return self._line.recv_bytes()
        except (EOFError, ConnectionError) as error:
            raise self._ended() from error

    def _ended(self) -> ModelNotReady:
        status = self._child.wait()
        return ModelNotReady(
            f"The process of {self._name} ended with status {status}"
            f"{' (killed: too little memory?)' if status == -9 else ''}. Try again."
        )

    def _last_words(self) -> str:
        """The last line of its log, which names what it stumbled over."""
        self._log.seek(0)
        lines = self._log.read()[-4000:].decode("utf-8", "replace").split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f" It said: {said[:300]}" if said else ""


def _refused(content: bytes) -> bool:
    """Whether a bundle as a whole got an error."""
    answer = answers.strict_json(content)
    return isinstance(answer, dict) and "error" in answer
