"""Promotions: another version of a model becomes its default, a former one in a roll back."""

from handlers.contract.names import ModelVersion
from portal.catalog.golden import Golden
from portal.deployments import acceptance
from portal.deployments.steps import CALL_TIMEOUT, Steps
from portal.errors import NotPossible
from portal.jobs import Running, Work
from portal.serving.model_server import ServedVersion


def previous_default(steps: Steps, model: str) -> ModelVersion:
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
    return ModelVersion(model, previous)


def prepare_promotion(steps: Steps, target: ModelVersion, operator: str) -> Work:
    """Check what can be said at once; see ``Deployments.promote``."""
    found = steps.served(target)
    if found.default:
        raise NotPossible(f"{target} is the default already. Choose another version.")
    if found.workers_ready == 0 and not steps.server.gate.is_asleep(target):
        raise NotPossible(f"{target} has no worker ready. Wait until it has, or retire it.")
    known, labels = acceptance.of_served(steps, target)
    return lambda job: _promote(steps, job, found, known, labels, operator)


def _promote(
    steps: Steps,
    job: Running,
    found: ServedVersion,
    known: Golden | None,
    labels: tuple[str, ...],
    operator: str,
) -> str:
    target = found.name
    former = steps.default(target.model)
    before = former.version if former is not None else None
    with job.step("Ask for the golden tiles") as step:
        step.detail = acceptance.check(steps.server, target, known, labels)
    try:
        steps.switch(job, target)
        steps.confirm(job, target, default=True)
        with job.step("Record") as step:
            steps.records.serve(steps.adopted(found, operator), default=True, former=before)
            step.detail = f"The previous default, {before}, stays served for a roll back."
    except Exception:
        with job.step("Take it back") as step:
            if former is not None:
                steps.server.set_default(former, CALL_TIMEOUT)
            step.detail = f"{before} is the default, as before."
        raise
    return f"{target} is the default; before it was {before}."
