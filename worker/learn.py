"""An improvement, from fresh grades to a policy that serves: claim, batch, update, gate, publish, settle.

What there is to do stands in Postgres; whoever calls `learn` only says "look now". A job belongs to one worker, by a
lease on its row. Killed at any point, it leaves a job that another learner ends, claims that go back, and either a
policy with its grades accounted for or neither. Leaves out how each step is done (the files named below).
"""

import logging
import time
from dataclasses import asdict

from app.identifiers import show
from app.settings import Settings
from app.telemetry.log import about
from app.telemetry.told import UpdateTold
from training.optimization.health import UpdateCancelled
from training.update import Learner, UpdateReport
from worker.batch import Batch, gather, write_trackers
from worker.claim import Assignment, begin
from worker.faults import Refused
from worker.gate.comparison import ask_incumbent, compare_with, decision_of, examine_candidate, questions
from worker.gate.evaluation import Scores
from worker.job import RunningJob, end_lost_jobs, heartbeat, overrun
from worker.publish import VERDICTS, Candidate, Decision, publish_files, ring, settle
from worker.recorders import Destinations, RecorderUnavailable
from worker.resident import Context, update_config
from worker.retention import CHECKPOINTS, prune
from worker.watchdog import Watchdog

log = logging.getLogger(__name__)


def learn(context: Context) -> str:
    """Look for something to learn, and learn it.

    Returns:
        What came of it: `idle` when there is nothing to do here and now, `ended` when the job was cancelled, stopped,
        taken over or stopped by a guard (its row says which), else the job's verdict.

    Raises:
        Exception: what a job failed of; it is on the job's row too.

    """
    end_lost_jobs(context.store)
    assignment = begin(context)
    return "idle" if assignment is None else carry_out(context, assignment)


def carry_out(context: Context, assignment: Assignment) -> str:
    """Run a job under its watchdog, to whatever end. Weights that became no serving version are forgotten."""
    outcome, began = "ended", time.monotonic()
    job_id, version = show("job", assignment.job_id), assignment.serving.version
    watchdog = Watchdog(
        beat=lambda: heartbeat(context.store, assignment),
        report=overrun(context.store, assignment),
        limit_s=assignment.settings.phase_deadline,
        stall_s=assignment.settings.stall_deadline,
        stopping=context.stopping,
        alarm=context.alarm,
    )
    ids = assignment.job_id, assignment.fence
    with about(job_id=job_id, policy_version=version):
        job = RunningJob(context.store, *ids, assignment.settings, watchdog)
        try:
            with watchdog, job:
                outcome = improve(context, assignment, job)
        finally:
            if outcome not in {"promoted", "nothing_to_learn"}:
                context.resident.drop()
            phases = job.metrics.get("seconds", {})
            context.telemetry.updated(UpdateTold(job_id, version, outcome, began, phases, len(assignment.claimed)))
        log.info("job %s on version %d: %s", assignment.job_id, version, outcome)
    return outcome


def improve(context: Context, assignment: Assignment, job: RunningJob) -> str:
    """Go through the phases, from a claim to a policy whose fate is decided."""
    settings = assignment.settings
    job.enter("batch")
    config = update_config(settings, assignment.rate_scale)
    learner = context.resident.learner(assignment.serving, assignment.base, config)
    policy = context.resident.policy(assignment.serving)
    with job.store.session() as session:
        heldout = questions(session, settings, policy)
    batch = gather(job, assignment, heldout, policy, learner)
    if batch.empty:
        return nothing_to_learn(job, assignment, batch)
    comparison, before = None, None
    if heldout is not None:
        job.enter("evaluate")
        comparison = compare_with(job, assignment, heldout, policy)
        before = ask_incumbent(job, comparison, policy)

    job.enter("update")
    report = update(job, learner, batch)

    job.enter("gate")
    result = examine_candidate(context, job, assignment, policy, comparison, before, report)
    after = None if comparison is None else result.of(comparison.look.candidate)
    decision = decision_of(result, settings)

    job.enter("publish")
    if decision.fate == "refuse" and not settings.keep_refused:
        raise Refused(decision.words, decision.better)
    directory = settings.var_dir / CHECKPOINTS
    state, beside = learner.state(), context.resident.beside
    candidate = publish_files(job, assignment, policy, state, beside, directory, assignment.drift + report.kl, after)
    record(settings, candidate.version, batch, report, after)

    job.enter("settle")
    return conclude(context, job, assignment, candidate, batch, decision)


def nothing_to_learn(job: RunningJob, assignment: Assignment, batch: Batch) -> str:
    """End a job whose every answer was skipped or waits; what spent grades said of the keys' values is kept."""
    with job.store.session() as session:
        if batch.skipped and not batch.waiting:
            write_trackers(session, batch.trackers, assignment.serving.version)
        job.finish(session, "succeeded", "nothing_to_learn", settlement="release")
    job.over = True
    return "nothing_to_learn"


def update(job: RunningJob, learner: Learner, batch: Batch) -> UpdateReport:
    """Take the optimizer step.

    Raises:
        UpdateRejected: a guard refused it.
        Cancelled, Stopped, Fenced: the job must end.

    """
    try:
        report = learner.update(
            batch.rollouts, batch.advantages, batch.corrections, cancelled=job.watchdog.asked_to_end
        )
    except UpdateCancelled:
        job.watchdog.check()
        raise
    job.note("update", update=asdict(report))
    return report


def record(settings: Settings, version: int, batch: Batch, report: UpdateReport, after: Scores | None) -> None:
    """Send the update's figures where the operator wants them; what cannot be reached is logged, and learning goes on.

    Args:
        settings: where to.
        version: the candidate's, the step of the curves.
        batch: what was learned from.
        report: the update's.
        after: the candidate's scores, if it was evaluated.

    """
    events = settings.var_dir / "tensorboard" if settings.tensorboard else None
    reward = sum(batch.rewards) / max(1, len(batch.rewards))
    try:
        with Destinations(events, settings.mlflow_uri).open(settings.served_name, 0) as records:
            for one in records:
                one(version, {"kind": "update", "reward": reward, "answers": len(batch.rewards), **asdict(report)})
                if after is not None and after.graded:
                    one(version, {"kind": "heldout", "value": sum(after.graded) / len(after.graded)})
    except RecorderUnavailable as error:
        log.warning("%s", error)


def conclude(
    context: Context,
    job: RunningJob,
    assignment: Assignment,
    candidate: Candidate,
    batch: Batch,
    decision: Decision,
) -> str:
    """Settle the candidate's fate; then tell servers, and tidy up.

    Files that became no policy are left for the next publisher of that version to remove (`worker.publish.clear_way`):
    whoever lost the job cannot know whose they are by now.
    """
    settle(job, assignment, candidate, batch.trackers, decision)
    if decision.fate == "promote":
        context.resident.became(candidate.version)
    if decision.fate in {"promote", "shadow", "canary"}:
        ring(context.redis_url, candidate.version)
    prune(context.store, assignment.settings, candidate.directory.parent)
    return VERDICTS[decision.fate]
