"""The gate's look at one job's candidate: whom it is compared with, how each is asked, and what comes of it.

Leaves out how a look goes (`worker.gate`) and what a decision leads to (`worker.publish`).
"""

from collections.abc import Callable
from typing import Final

from app.settings import Settings
from app.store import checkpoints, evaluations, lineage
from app.trials import after_gate
from training.policy import Policy
from training.update import UpdateReport
from worker.context import Context
from worker.evaluation import EvaluationPlan, Scores, evaluate
from worker.evaluation_set import EvaluationSet, read_evaluation_set
from worker.gate import GateResult, Look, Vitals, no_questions, recorded_of
from worker.job import RunningJob
from worker.publish import Decision, record_scores
from worker.work import Assignment

ROWS: Final = 400  # newest evaluations of a lineage that a look builds on, besides those of the base


def questions(settings: Settings, policy: Policy) -> EvaluationSet | None:
    """Read the held-out set, if there is one."""
    if settings.heldout is None:
        return None
    return read_evaluation_set(settings.heldout, settings.heldout_size, policy.tokenizer, settings.heldout_sealed)


def look_of(job: RunningJob, assignment: Assignment, heldout: EvaluationSet) -> Look:
    """Prepare the gate's look, with what the serving version and its forebears were asked before."""
    with job.store.session() as session:
        versions = {
            one.checkpoint.id: one.checkpoint.version for one in lineage.ancestors(session, assignment.serving_id)
        }
        base = checkpoints.by_version(session, assignment.base.version)
        rows = [row for row in evaluations.list_evaluations(session, limit=ROWS) if row.checkpoint_id in versions]
        known = {row.id for row in rows}
        rows += [row for row in evaluations.list_evaluations(session, checkpoint_id=base.id) if row.id not in known]
        rows.sort(key=lambda row: row.id)
        versions[base.id] = base.version
        recorded = recorded_of((versions[row.checkpoint_id], row.detail) for row in rows)
        candidate = checkpoints.next_version(session)
    name = str(assignment.job_id)
    return Look(assignment.settings, heldout, recorded, name, candidate, assignment.serving.version, base.version)


def ask_incumbent(job: RunningJob, look: Look, policy: Policy) -> Scores:
    """Ask what serves the first part of a look, before the update changes it."""
    return evaluate(policy, look.questions, look.first, look.settings, lambda _: job.watchdog.check())


def examine(
    context: Context,
    job: RunningJob,
    assignment: Assignment,
    policy: Policy,
    look: Look | None,
    before: Scores | None,
    report: UpdateReport,
) -> GateResult:
    """Ask the candidate, and keep what was asked of those who have a row.

    Args:
        context: loads forebears that must be asked again.
        job: the running one.
        assignment: the job's.
        policy: the candidate, as learned.
        look: the gate's; None where there is no held-out set.
        before: the incumbent's answers, likewise.
        report: of the update.

    """
    result = no_questions(assignment.settings)
    if look is not None and before is not None:
        vitals = Vitals(report.entropy_before, report.entropy_after)
        result = look.examine(before, asking(context, job, assignment, policy, look), vitals)
    job.note("gate", gate={**result.figures, "words": result.words})
    with job.store.session() as session:
        for version, scores in result.scores:
            if version in {assignment.serving.version, assignment.base.version}:
                kind = "base" if version == assignment.base.version else "heldout"
                record_scores(session, checkpoints.by_version(session, version), kind, scores)
    return result


def asking(
    context: Context, job: RunningJob, assignment: Assignment, policy: Policy, look: Look
) -> Callable[[int, EvaluationPlan], Scores]:
    """Make what the gate asks by: the candidate is in memory, its forebears are loaded when they are needed."""
    forebears: dict[int, Policy] = {}

    def ask(version: int, plan: EvaluationPlan) -> Scores:
        if version != look.candidate and version not in forebears:
            source = next(one for one in (assignment.serving, assignment.base) if one.version == version)
            forebears[version] = context.resident.load(source)
        asked = policy if version == look.candidate else forebears[version]
        return evaluate(asked, look.questions, plan, assignment.settings, lambda _: job.watchdog.check())

    return ask


def decide(result: GateResult, settings: Settings) -> Decision:
    """Say what is to become of the candidate."""
    if result.decision == "refuse":
        return Decision("refuse", result.words, result.figures)
    if result.decision == "hold":
        return Decision("hold", result.words, result.figures)
    return Decision(after_gate(settings), result.words, result.figures)
