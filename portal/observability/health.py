"""What is true now: workers seen live, a recent real prediction, a database that can be used."""

import logging
import math
import threading
import time
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Literal

from handlers.contract.names import ModelVersion
from portal.errors import PortalError
from portal.serving.model_server import ModelServer, ServedVersion
from portal.serving.probe_tile import PROBE_TILE
from portal.serving.worker_startup import WorkerStartup
from portal.storage.database import Database

log = logging.getLogger("portal.observability.health")

HEALTH_TIMEOUT = 0.8  # seconds for all describe calls: the answer is due within 2 s of a kill
DATABASE_WAIT = 0.7  # seconds that the database has for an answer, while the server is asked
PROBE_WAIT = 0.7  # seconds that an answer waits for a synthetic prediction still under way
PROBE_REFRESH = 10.0  # seconds after which a synthetic prediction is made again
LOADING = "its worker is loading"
PROBE_MAX_AGE = 30.0  # seconds after which a synthetic prediction says nothing any more

Status = Literal["ok", "loading", "degraded", "down"]
Word = Status | Literal["database"]  # degraded, because the portal's database cannot be used

# What the pages say about each state; "unknown": nobody has looked lately, or nobody answers.
WORDS: dict[Word | Literal["unknown"], str] = {
    "ok": "Model server ready",
    "loading": "Model is loading",
    "degraded": "A model does not work",
    "database": "The portal's database cannot be used",
    "down": "Model server down",
    "unknown": "The portal does not answer",
}


@dataclass(frozen=True)
class Failure:
    """Why a version does not work as it should.

    Model and version are None for the portal's database and, when it is down, the whole server.
    """

    model: str | None
    version: str | None
    reason: str

    def is_about(self, name: ModelVersion) -> bool:
        """Whether it is this version that does not work."""
        return (self.model, self.version) == (name.model, name.version)


@dataclass(frozen=True)
class HealthReport:
    """The state of the model server at one moment.

    Attributes:
        status: "ok": every registered version has a ready worker, or sleeps, and every default one
            that may not sleep has made a prediction in the last 30 s. "loading": nothing failed,
            but a version is not ready yet. "degraded": a version does not work, or the portal's
            database, which predictions do not need. "down": the server cannot be asked.
        ready: the portal's default model answers, whatever the others do.
        versions: all registered versions, but for those that are being deployed.
        failures: one for each version that does not work, or is still loading.
        on_trial: the versions that are being deployed.
    """

    status: Status
    ready: bool
    versions: list[ServedVersion]
    failures: list[Failure]
    on_trial: list[ServedVersion] = field(default_factory=list)

    @property
    def word(self) -> Word:
        """What the pages call this state."""
        database = any(failure.model is None for failure in self.failures)
        return "database" if self.status == "degraded" and database else self.status


class _Probe:
    """A look at something, in a thread of its own; ``reason`` is None when it succeeded."""

    def __init__(self, look: Callable[[], object], thread: str, failed: str, mistake: str) -> None:
        self.done = threading.Event()
        self.at = 0.0  # time.monotonic() of the end
        self.reason: str | None = None

        def run() -> None:
            try:
                look()
            except PortalError as error:
                self.reason = f"{failed}{error}"
            except Exception:  # a mistake of ours must not pass for something that works
                log.exception("%s failed unexpectedly", thread)
                self.reason = mistake
            finally:
                self.at = time.monotonic()
                self.done.set()

        threading.Thread(target=run, name=thread, daemon=True).start()


@dataclass
class _Memory:
    """What is remembered of one version between two reports."""

    pids: frozenset[int] = frozenset()  # of the ready workers that the probes below asked
    finished: _Probe | None = None
    running: _Probe | None = None
    startup: WorkerStartup | None = None


class Health:
    """Reports on a model server and on the portal's database; asking is what refreshes."""

    def __init__(self, torchserve: ModelServer, default_model: str, database: Database) -> None:
        self._torchserve = torchserve
        self._database = database
        self._database_probe: _Probe | None = None
        self._default_model = default_model
        self._lock = threading.Lock()
        self._memory: dict[ModelVersion, _Memory] = {}
        self._last_word: Word | None = None
        self._last_look = -math.inf  # time.monotonic() of it

    def report(self, timeout: float = HEALTH_TIMEOUT) -> HealthReport:
        """Look now; takes a few milliseconds when all is well.

        Args:
            timeout: seconds that the model server has to describe its versions; a synthetic
                prediction may take 0.7 s more.
        """
        database = self._ask_database()
        report = self._look(timeout)
        answered = database.done.wait(DATABASE_WAIT)
        late = f"The portal's database has not answered within {DATABASE_WAIT:g} s."
        if problem := database.reason if answered else late:
            status: Status = "down" if report.status == "down" else "degraded"
            failures = [*report.failures, Failure(None, None, problem)]
            report = replace(report, status=status, failures=failures)
        with self._lock:
            changed, self._last_word = report.word != self._last_word, report.word
            self._last_look = time.monotonic()
        if changed:
            reasons = [f"{f.model} {f.version}: {f.reason}" for f in report.failures]
            level = logging.INFO if report.status == "ok" else logging.WARNING
            log.log(level, "health is %s; %s", report.word, "; ".join(reasons) or "all works")
        return report

    def lately(self) -> Word | None:
        """The state at the last look; None if that was more than 30 s ago."""
        with self._lock:
            recent = time.monotonic() - self._last_look < PROBE_MAX_AGE
            return self._last_word if recent else None

    def _ask_database(self) -> _Probe:
        """Begin to look at the database; a look that still goes on, as it hangs, is enough."""
        with self._lock:
            if self._database_probe is None or self._database_probe.done.is_set():
                self._database_probe = _Probe(
                    self._database.check,
                    "portal-database-probe",
                    "",
                    "The portal's database could not be looked at; see the portal's log.",
                )
            return self._database_probe

    def _look(self, timeout: float) -> HealthReport:
        gate = self._torchserve.gate
        try:
            everything = self._torchserve.served(timeout)
        except PortalError as error:
            with self._lock:
                self._memory.clear()
            return HealthReport("down", False, [], [Failure(None, None, str(error))])
        on_trial = [found for found in everything if gate.is_on_trial(found.name)]
        versions = [found for found in everything if found not in on_trial]
        probes = self._remember(versions)
        wait_until = time.monotonic() + PROBE_WAIT
        loading: list[Failure] = []
        broken: list[Failure] = []
        for served in versions:
            if self.sleeps(served):
                continue
            if served.workers_ready == 0:
                reason = self._why_unready(served)
                found = Failure(served.name.model, served.name.version, reason or LOADING)
                (broken if reason else loading).append(found)
            elif served.name in probes and (reason := _verdict(probes[served.name], wait_until)):
                broken.append(Failure(served.name.model, served.name.version, reason))
        if not any(served.name.model == self._default_model for served in versions):
            reason = "TorchServe does not serve this model: it is not registered"
            broken.append(Failure(self._default_model, None, reason))
        failures = broken + loading
        status: Status = "degraded" if broken else "loading" if loading else "ok"
        ready = any(
            not any(failure.is_about(served.name) for failure in failures)
            for served in versions
            if served.default and served.name.model == self._default_model
        )
        return HealthReport(status, ready, versions, failures, on_trial)

    def _remember(self, versions: list[ServedVersion]) -> dict[ModelVersion, _Memory]:
        """Bring the memory up to date; start the probes that are due; return those of defaults."""
        now = time.monotonic()
        probes: dict[ModelVersion, _Memory] = {}
        with self._lock:
            names = {served.name for served in versions}
            self._memory = {name: kept for name, kept in self._memory.items() if name in names}
            for served in versions:
                memory = self._memory.setdefault(served.name, _Memory())
                if self.sleeps(served):
                    memory.startup = None
                    continue
                if served.workers_ready == 0:
                    memory.startup = memory.startup or WorkerStartup()
                    continue
                memory.startup = None
                # A lazy version is not asked: it would never fall asleep.
                if not served.default or self._torchserve.gate.is_lazy(served.name):
                    continue
                pids = frozenset(worker.pid for worker in served.workers if worker.ready)
                if pids != memory.pids:  # other processes: what the former ones did proves nothing
                    memory.pids, memory.finished, memory.running = pids, None, None
                if memory.running and memory.running.done.is_set():
                    memory.finished, memory.running = memory.running, None
                due = memory.finished is None or now - memory.finished.at > PROBE_REFRESH
                if due and memory.running is None:
                    memory.running = self._start_probe(served)
                probes[served.name] = copy(memory)
        return probes

    def sleeps(self, served: ServedVersion) -> bool:
        """Whether a version has no workers because nobody needs it, which is no failure."""
        asleep = self._torchserve.gate.is_asleep(served.name)
        return asleep and served.workers_wanted == 0 and served.workers_ready == 0

    def _start_probe(self, served: ServedVersion) -> _Probe:
        return _Probe(
            lambda: self._torchserve.predict(PROBE_TILE, served.name),
            "portal-probe",
            "a synthetic prediction failed: ",
            "a synthetic prediction failed in the portal; see its log",
        )

    def _why_unready(self, served: ServedVersion) -> str | None:
        """The reason why a version is broken; None while it may still be loading."""
        if served.workers_wanted == 0:
            return "no worker is started for it"
        with self._lock:
            memory = self._memory.get(served.name)
            return memory.startup.problem(served) if memory and memory.startup else None


def _verdict(memory: _Memory, wait_until: float) -> str | None:
    """Why the synthetic predictions say that a version does not work; None when they do not."""
    recent, running = memory.finished, memory.running
    if recent is not None and time.monotonic() - recent.at > PROBE_MAX_AGE:
        recent = None
    if running is not None:
        # A failure is worth waiting for the next try; a success holds while the next one runs.
        if recent is None or recent.reason is not None:
            running.done.wait(max(0.0, wait_until - time.monotonic()))
        if running.done.is_set():
            recent = running
    return recent.reason if recent else "a synthetic prediction has not been answered yet"
