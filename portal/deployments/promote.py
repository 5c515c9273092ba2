"""Promotions: another version of a model becomes its default, a former one in a roll back."""

from portal.catalog.golden import Golden
from portal.deployments import acceptance
from portal.deployments.steps import CALL_TIMEOUT, Steps
from portal.errors import NotPossible
from portal.jobs import Running, Work
from portal.serving.model_server import ServedVersion


def previous_default(steps: Steps, model: str) -> str:
    """The version that a roll back goes to.

    Raises:
        NotPossible: there is none.
    """
    default = steps.records.defaults().get(model)
    previous = default.previous if default is not None else None
    if previous is None:
        raise NotPossible(
            f"{model} has no previous default to go back to: none was promoted, or it was "
            "retired. Promote the version that is to answer."
        )
    return previous


def prepare_promotion(steps: Steps, model: str, version: str, operator: str) -> Work:
    """Check what can be said at once; see ``Deployments.promote``."""
    found = steps.served(model, version)
    if found.default:
        raise NotPossible(f"{model} {version} is the default already. Choose another version.")
    if found.workers_ready == 0 and not steps.server.gate.is_asleep(model, version):
        raise NotPossible(
            f"{model} {version} has no worker ready. Wait until it has, or retire it."
        )
    known, labels = acceptance.of_served(steps, model, version)
    return lambda job: _promote(steps, job, found, known, labels, operator)


def _promote(
    steps: Steps,
    job: Running,
    found: ServedVersion,
    known: Golden | None,
    labels: tuple[str, ...],
    operator: str,
) -> str:
    model, version = found.model, found.version
    former = steps.default(model)
    with job.step("Ask for the golden tiles") as step:
        step.detail = acceptance.check(steps.server, model, version, known, labels)
    try:
        steps.switch(job, model, version)
        steps.confirm(job, model, version, default=True)
        with job.step("Record") as step:
            steps.records.serve(steps.adopted(found, operator), default=True, former=former)
            step.detail = f"The previous default, {former}, stays served for a roll back."
    except Exception:
        with job.step("Take it back") as step:
            if former is not None:
                steps.server.set_default(model, former, CALL_TIMEOUT)
            step.detail = f"{former} is the default, as before."
        raise
    return f"{model} {version} is the default; before it was {former}."
