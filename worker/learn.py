"""An improvement, from fresh grades to a policy that serves: claim, batch, update, gate, publish, settle.

What there is to do stands in Postgres; whoever calls `learn` only says "look now". A job belongs to one worker, by a
lease on its row. Killed at any point, it leaves a job that another learner ends, claims that go back, and either a
policy with its grades accounted for or neither. Leaves out how each step is done (the files named below).
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean, median
from typing import Final
from uuid import UUID

from app.settings import Settings
from app.store import checkpoints, claims, evaluations, jobs
from app.store.claims import Skipped
from app.trials import after_gate
from training.gate import Verdict, judge
from training.health import UpdateCancelled
from training.policy import Policy
from training.update import Learner, UpdateReport
from worker.batch import Batch, build, read_trackers, write_trackers
from worker.context import Context
from worker.corrections import corrections_of
from worker.exam import Marks, pairs, paper_of, recorded, sit
from worker.faults import Refused
from worker.heldout import HeldOut, read_heldout
from worker.job import RunningJob, end_lost_jobs, heartbeat, overrun
from worker.publish import VERDICTS, Candidate, Decision, publish_files, record_marks, ring, settle
from worker.recorders import Destinations, RecorderUnavailable
from worker.resample import resample
from worker.retention import prune
from worker.samples import Rules, Sample, filter_samples
from worker.update_config import update_config
from worker.watchdog import Watchdog
from worker.work import Assignment, begin

CHECKPOINTS: Final = "checkpoints"  # directory under LEPO_VAR_DIR
UNUSABLE: Final = Skipped("correction_unusable")

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
    outcome = "ended"
    watchdog = Watchdog(
        beat=lambda: heartbeat(context.store, assignment),
        report=overrun(context.store, assignment),
        limit_s=assignment.settings.phase_deadline,
        stopping=context.stopping,
    )
    ids = assignment.job_id, assignment.fence
    try:
        with watchdog, RunningJob(context.store, *ids, assignment.settings, watchdog) as job:
            outcome = improve(context, assignment, job)
    finally:
        if outcome not in {"promoted", "nothing_to_learn"}:
            context.resident.drop()
    log.info("job %s on version %d: %s", assignment.job_id, assignment.serving.version, outcome)
    return outcome


def improve(context: Context, assignment: Assignment, job: RunningJob) -> str:
    """Go through the phases, from a claim to a policy whose fate is decided."""
    settings = assignment.settings
    job.enter("batch")
    config = update_config(settings, assignment.rate_scale)
    learner = context.resident.learner(assignment.serving, assignment.base, config)
    policy = context.resident.policy(assignment.serving)
    heldout = questions(settings, policy)
    batch = gather(job, assignment, heldout, policy, learner)
    if batch.empty:
        return nothing_to_learn(job, assignment, batch)
    before = examined(job, assignment, policy, heldout)

    job.enter("update")
    report = update(job, learner, batch)
    context.resident.learned()

    job.enter("gate")
    after = None if heldout is None else sit(policy, heldout, settings, lambda _: job.watchdog.check())
    decision = gate(job, settings, before, after)

    job.enter("publish")
    if decision.fate == "refuse" and not settings.keep_refused:
        raise Refused(decision.words)
    directory = settings.var_dir / CHECKPOINTS
    state, beside = learner.state(), context.resident.beside
    candidate = publish_files(job, assignment, policy, state, beside, directory, assignment.drift + report.kl, after)
    record(settings, candidate.version, batch, report, after)

    job.enter("settle")
    return conclude(context, job, assignment, candidate, batch, decision)


def questions(settings: Settings, policy: Policy) -> HeldOut | None:
    """Read the held-out set, if there is one."""
    return None if settings.heldout is None else read_heldout(settings.heldout, settings.heldout_size, policy.tokenizer)


def gather(job: RunningJob, assignment: Assignment, heldout: HeldOut | None, policy: Policy, learner: Learner) -> Batch:
    """Make the batch, with fresh groups where they are wanted, and settle at once what will not be learned from."""
    settings = assignment.settings
    rules = Rules(policy.model.config.vocab_size, settings.baseline)
    filtered = filter_samples(assignment.claimed, assignment.keys, rules, heldout)
    right = corrections_of(assignment.claimed, filtered.rollouts, policy, settings)
    samples, far = near_enough(job, filtered.samples, learner, settings)
    unusable = set(filtered.rollouts) - set(right) - {one.interaction_id for one in filtered.samples}
    left: list[UUID] = []
    if settings.resample > 1:
        rng = random.Random(assignment.fence)  # noqa: S311  no secret
        fresh = resample(samples, assignment.claimed, policy, settings, rng, job.watchdog.check)
        job.note("resample", resampled={"prompts": fresh.prompts, "answers": fresh.answers})
        samples, left = fresh.samples, fresh.waiting
    with job.store.session() as session:
        trackers = read_trackers(session, {one.graded.key for one in samples})
        batch = build(samples, settings.baseline, trackers, assignment.drift).with_corrections(right)
        jobs.held(session, job.job_id, job.fence)
        unlearnable = {**filtered.skipped, **far, **batch.skipped, **dict.fromkeys(unusable, UNUSABLE)}
        claims.skip(session, job.job_id, {one: why for one, why in unlearnable.items() if one not in right})
        claims.give_back(session, job.job_id, [one for one in (*left, *batch.waiting) if one not in right])
        outcomes = claims.outcomes(session, job.job_id)
        assert outcomes.get("claimed", 0) == len(batch.ids), (
            "every claimed answer is in the batch, waits or has a reason"
        )
    job.note(
        "batch",
        rollouts=len(batch.rollouts),
        corrections=len(batch.corrections),
        baselines=batch.baselines,
        reward_mean=sum(batch.rewards) / max(1, len(batch.rewards)),
        keys=batch.keys,
        skipped={name.removeprefix("skipped:"): n for name, n in outcomes.items() if name.startswith("skipped:")},
        waiting=len(left) + len(batch.waiting),
    )
    return batch


def near_enough(
    job: RunningJob, samples: Sequence[Sample], learner: Learner, settings: Settings
) -> tuple[list[Sample], dict[UUID, Skipped]]:
    """Leave out what is too far from the policy that learns, or never explored; every figure is kept on the claim."""
    found = learner.measure([one.rollout for one in samples], cancelled=job.watchdog.asked_to_end)
    measured = {one.interaction_id: far for one, far in zip(samples, found, strict=True)}
    skipped: dict[UUID, Skipped] = {}
    for name, one in measured.items():
        if not one.explored:
            skipped[name] = Skipped("no_exploration", one.nats)
        elif not one.nats <= settings.max_divergence:
            skipped[name] = Skipped("diverged", one.nats)
    with job.store.session() as session:
        jobs.held(session, job.job_id, job.fence)
        claims.measured(session, job.job_id, {name: (one.nats, one.weight) for name, one in measured.items()})
    job.note(
        "measure", divergence=spread_of([one.nats for one in found]), weight=spread_of([one.weight for one in found])
    )
    return [one for one in samples if one.interaction_id not in skipped], skipped


def spread_of(values: Sequence[float]) -> dict[str, float]:
    """Describe figures by their mean, median and largest; nothing of none."""
    if not values:
        return {}
    return {"mean": fmean(values), "median": median(values), "largest": max(values)}


def nothing_to_learn(job: RunningJob, assignment: Assignment, batch: Batch) -> str:
    """End a job whose every answer was skipped or waits; what spent grades said of the keys' values is kept."""
    with job.store.session() as session:
        if batch.skipped and not batch.waiting:
            write_trackers(session, batch.trackers, assignment.serving.version)
        job.finish(session, "succeeded", "nothing_to_learn", settlement="release")
    job.over = True
    return "nothing_to_learn"


def examined(job: RunningJob, assignment: Assignment, policy: Policy, heldout: HeldOut | None) -> Marks | None:
    """Give the serving version's marks: those on record, or, the first time, those of an exam it sits now."""
    if heldout is None:
        return None
    paper = paper_of(heldout, assignment.settings)
    with job.store.session() as session:
        known = recorded(evaluations.list_evaluations(session, checkpoint_id=assignment.serving_id), paper)
    if known is not None:
        return known
    job.enter("exam")
    marks = sit(policy, heldout, assignment.settings, lambda _: job.watchdog.check())
    with job.store.session() as session:
        kind = "base" if assignment.serving.version == 0 else "heldout"
        record_marks(session, checkpoints.get_checkpoint(session, assignment.serving_id), kind, marks)
    return marks


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


def gate(job: RunningJob, settings: Settings, before: Marks | None, after: Marks | None) -> Decision:
    """Judge the candidate."""
    old, new = ([], []) if before is None or after is None else pairs(before, after)
    verdict: Verdict = judge(old, new, settings.gate_margin)
    left_out = 0 if after is None else len(after.outcomes) - verdict.n
    figures = {**asdict(verdict), "left_out": left_out}
    job.note("gate", gate=figures)
    words = (
        f"{verdict.before:.3f} before, {verdict.after:.3f} after on {verdict.n} held-out prompts, "
        f"difference {verdict.difference:+.3f} ({verdict.low:+.3f} to {verdict.high:+.3f})"
    )
    if verdict.decision == "reject":
        return Decision("refuse", f"the gate refused the candidate: {words}", figures)
    if verdict.decision == "promote" or settings.gate_no_signal == "promote":
        return Decision(after_gate(settings), f"the gate passed it: {words}", figures)
    return Decision("hold", f"the gate has no signal: {words}", figures)


def record(settings: Settings, version: int, batch: Batch, report: UpdateReport, after: Marks | None) -> None:
    """Send the update's figures where the operator wants them; what cannot be reached is logged, and learning goes on.

    Args:
        settings: where to.
        version: the candidate's, the step of the curves.
        batch: what was learned from.
        report: the update's.
        after: the candidate's marks, if there was an evaluation.

    """
    events = settings.var_dir / "tensorboard" if settings.tensorboard else None
    reward = sum(batch.rewards) / max(1, len(batch.rewards))
    try:
        with Destinations(events, settings.mlflow_uri).open(settings.served_name, 0) as records:
            for one in records:
                one(version, {"kind": "update", "reward": reward, "answers": len(batch.rewards), **asdict(report)})
                if after is not None and after.marked:
                    one(version, {"kind": "heldout", "value": sum(after.marked) / len(after.marked)})
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
