"""The gate's look at one job's candidate: whom it is compared with, how each is asked, and what comes of it.

Leaves out how a look goes (`worker.gate.look`) and what a decision leads to (`worker.publish`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from app.placements import placements_of
from app.settings import Settings
from app.store import checkpoints, evaluations, held_out, lineage
from app.trials import after_gate
from training.models.policy import Policy
from training.update import UpdateReport
from worker.claim import Assignment, source_of
from worker.corrections import regressions
from worker.gate.evaluation import EvaluationPlan, Scores, evaluate
from worker.gate.evaluation_set import EvaluationSet, evaluation_set, read_evaluation_set, read_questions
from worker.gate.look import Ask, GateResult, Look, Vitals, no_questions, recorded_of
from worker.job import RunningJob
from worker.publish import Decision, record_scores
from worker.resident import Context, Source

ROWS: Final = 400  # newest evaluations of a lineage that a look builds on, besides those of the base


def questions(session: Session, settings: Settings, policy: Policy) -> EvaluationSet | None:
    """Read the held-out set, if there is one, and what was corrected once and must stay right.

    What an operator uploaded and left active goes before what the settings name.
    """
    uploaded, named = held_out.active(session), settings.heldout
    if uploaded is None and named is None:
        return None
    again = regressions(session, settings.gate_corrections, policy.tokenizer)
    if uploaded is None:
        assert named is not None
        return read_evaluation_set(named, settings.heldout_size, policy.tokenizer, settings.heldout_sealed, again)
    source = f"held-out set {uploaded.version}"
    found = read_questions(uploaded.lines.split("\n"), f"{source}, line ", settings.heldout_size, policy.tokenizer)
    return evaluation_set(found, settings.heldout_sealed, again, source=source)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The gate's look at a candidate, and where the weights are of those it may be compared with."""

    look: Look
    sources: Mapping[int, Source]  # version -> weights, of forebears that may be asked again


def compare_with(job: RunningJob, assignment: Assignment, heldout: EvaluationSet, policy: Policy) -> Comparison:
    """Prepare the gate's look, with what the serving version and its forebears were asked before."""
    with job.store.session() as session:
        line = [one.checkpoint for one in lineage.ancestors(session, assignment.serving_id)]
        versions = {row.id: row.version for row in line}
        rows = [row for row in evaluations.list_evaluations(session, limit=ROWS) if row.checkpoint_id in versions]
        first = evaluations.list_evaluations(session, checkpoint_id=line[-1].id)
        rows = sorted({row.id: row for row in (*rows, *first)}.values(), key=lambda row: row.id)
        recorded = recorded_of((versions[row.checkpoint_id], row.detail) for row in rows)
        candidate = checkpoints.next_version(session)
        sources = {row.version: source_of(row) for row in line if row.files_deleted_at is None}
    sources |= {one.version: one for one in (assignment.base, assignment.serving)}
    look = Look(
        settings=assignment.settings,
        questions=heldout,
        recorded=recorded,
        name=str(assignment.job_id),
        candidate=candidate,
        incumbent=assignment.serving.version,
        base=assignment.base.version,
        reachable=sources.keys(),
        placement=placements_of(assignment.settings, policy).of_chat,
    )
    return Comparison(look, sources)


def ask_incumbent(job: RunningJob, comparison: Comparison, policy: Policy) -> Scores:
    """Ask what serves the first part of a look, before the update changes it."""
    look = comparison.look
    return evaluate(policy, look.questions, look.first, look.settings, lambda _: job.watchdog.check())


def examine_candidate(
    context: Context,
    job: RunningJob,
    assignment: Assignment,
    policy: Policy,
    comparison: Comparison | None,
    before: Scores | None,
    report: UpdateReport,
) -> GateResult:
    """Ask the candidate, and keep what was asked of those who have a row.

    Args:
        context: loads forebears that must be asked again.
        job: the running one.
        assignment: the job's.
        policy: the candidate, as learned.
        comparison: with whom; None where there is no held-out set.
        before: the incumbent's answers, likewise.
        report: of the update.

    """
    result = no_questions(assignment.settings)
    if comparison is not None and before is not None:
        vitals = Vitals(report.entropy_before, report.entropy_after)
        result = comparison.look.examine(before, asking(context, job, policy, comparison), vitals)
    held = {} if comparison is None else {"held_out": comparison.look.questions.source}
    job.note("gate", gate={**result.figures, **held, "words": result.words})
    with job.store.session() as session:
        for version, scores in result.scores:
            if comparison is not None and version != comparison.look.candidate:
                kind = "base" if version == assignment.base.version else "heldout"
                record_scores(session, checkpoints.by_version(session, version), kind, scores)
    return result


def asking(context: Context, job: RunningJob, policy: Policy, comparison: Comparison) -> Ask:
    """Make what the gate asks by: the candidate is in memory, a forebear is loaded when it is asked."""
    look = comparison.look
    loaded: dict[int, Policy] = {look.candidate: policy}

    def ask(version: int, plan: EvaluationPlan) -> Scores:
        if version not in loaded:
            loaded[version] = context.resident.load(comparison.sources[version])
        return evaluate(loaded[version], look.questions, plan, look.settings, lambda _: job.watchdog.check())

    return ask


def decision_of(result: GateResult, settings: Settings) -> Decision:
    """Say what is to become of the candidate."""
    if result.decision == "refuse":
        return Decision("refuse", result.words, result.figures, result.better)
    if result.decision == "hold":
        return Decision("hold", result.words, result.figures)
    return Decision(after_gate(settings), result.words, result.figures)
