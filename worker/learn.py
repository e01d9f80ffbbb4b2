"""An improvement, from fresh grades to a policy that serves: claim, batch, update, gate, publish, promote.

What there is to do stands in Postgres; whoever calls `learn` only says "look now". One learner works at a time, under a
lock that dies with it. Killed at any point, it leaves a job that the next learner ends, claims that go back, and either
a promoted checkpoint with its grades spent or neither. Leaves out how each step is done (the files named below).
"""

import logging
import random
from dataclasses import asdict
from typing import Final, Literal

from app.settings import Settings
from app.store import claims, evaluations, jobs
from app.store.checkpoints import get_checkpoint
from training.gate import Verdict, judge
from training.health import UpdateCancelled
from training.policy import Policy
from training.update import Learner, UpdateReport
from worker.batch import Batch, build
from worker.begin import Begun, begin
from worker.beliefs import read_trackers, write_trackers
from worker.exam import Marks, pairs, paper_of, recorded, sit
from worker.heldout import HeldOut, read_heldout
from worker.lessons import Rules, sift
from worker.lock import learner_lock
from worker.plan import update_config
from worker.promote import Candidate, prune, publish_files, record_marks, ring, settle
from worker.recorders import Destinations, RecorderUnavailable
from worker.regroup import regroup
from worker.run import GateRefused, Run, overrun, recover
from worker.watch import Watch
from worker.workshop import Workshop

Outcome = Literal["busy", "idle", "promoted", "held", "nothing_to_learn", "ended"]
CHECKPOINTS: Final = "checkpoints"  # directory under LEPO_VAR_DIR

log = logging.getLogger(__name__)


def learn(shop: Workshop) -> Outcome:
    """Look for something to learn, and learn it.

    Returns:
        What came of it: `busy` while another learner is at work, `idle` when there is nothing to do, `ended` when the
        job was refused, cancelled, stopped or taken over (its row says which), else the job's verdict.

    Raises:
        Exception: what a job failed of; it is on the job's row too.

    """
    with learner_lock(shop.store) as taken:
        if not taken:
            return "busy"
        recover(shop.store)
        begun = begin(shop)
        return "idle" if begun is None else carry_out(shop, begun)


def carry_out(shop: Workshop, begun: Begun) -> Outcome:
    """Run a job under its watch, to whatever end. Weights that became no version are forgotten."""
    outcome: Outcome = "ended"
    watch = Watch(
        beat=lambda: heartbeat(shop, begun),
        report=overrun(shop.store, begun.job_id, begun.fence),
        limit_s=begun.settings.phase_deadline,
        stopping=shop.stopping,
    )
    try:
        with watch, Run(shop.store, begun.job_id, begun.fence, watch) as run:
            outcome = improve(shop, begun, run)
    finally:
        if outcome not in {"promoted", "nothing_to_learn"}:
            shop.resident.drop()
    log.info("job %s on version %d: %s", begun.job_id, begun.serving.version, outcome)
    return outcome


def heartbeat(shop: Workshop, begun: Begun) -> bool:
    """Say that the job is alive; returns whether to cancel it."""
    with shop.store.session() as session:
        return jobs.heartbeat(session, begun.job_id, begun.fence)


def improve(shop: Workshop, begun: Begun, run: Run) -> Outcome:
    """Go through the phases, from a claim to a version that serves."""
    run.enter("batch")
    learner = shop.resident.learner(begun.serving, begun.base, update_config(begun.settings))
    policy = shop.resident.policy(begun.serving)
    heldout = questions(begun.settings, policy)
    batch = gather(run, begun, heldout, policy)
    if not batch.rollouts:
        return nothing_to_learn(run, begun, batch)
    before = examined(run, begun, policy, heldout)

    run.enter("update")
    report = update(run, learner, batch)
    shop.resident.learned()

    run.enter("gate")
    after = None if heldout is None else sit(policy, heldout, begun.settings, lambda _: run.watch.check())
    record(shop.settings, begun.serving.version + 1, batch, report, after)
    serve = gate(run, begun.settings, before, after)

    run.enter("publish")
    directory = shop.settings.var_dir / CHECKPOINTS
    state, beside = learner.state(), shop.resident.beside
    candidate = publish_files(run, begun, policy, state, beside, directory, begun.drift + report.kl, after)

    run.enter("promote")
    return promote(shop, run, begun, candidate, batch, serve=serve)


def questions(settings: Settings, policy: Policy) -> HeldOut | None:
    """Read the held-out set, if there is one."""
    return None if settings.heldout is None else read_heldout(settings.heldout, settings.heldout_size, policy.tokenizer)


def gather(run: Run, begun: Begun, heldout: HeldOut | None, policy: Policy) -> Batch:
    """Make the batch, with fresh groups where they are wanted, and settle at once what will not be learned from."""
    settings = begun.settings
    rules = Rules(begun.serving.version, settings.baseline, settings.key_share)
    rng = random.Random(begun.fence)  # noqa: S311  no secret
    sifted = sift(begun.claimed, rules, heldout, rng)
    lessons, skipped = sifted.lessons, dict(sifted.skipped)
    if settings.regroup > 1:
        fresh = regroup(lessons, begun.claimed, policy, settings, rng, run.watch.check)
        run.note("regroup", regrouped={"prompts": fresh.prompts, "answers": fresh.answers})
        lessons, skipped = fresh.lessons, skipped | dict.fromkeys(fresh.surplus, "key_cap")
    with run.store.session() as session:
        trackers = read_trackers(session, {one.graded.key for one in lessons})
        batch = build(lessons, settings.baseline, trackers, begun.drift)
        jobs.held(session, run.job_id, run.fence)
        claims.skip(session, run.job_id, skipped | batch.skipped)
        outcomes = claims.outcomes(session, run.job_id)
        assert outcomes.get("claimed", 0) == len(batch.ids), "every claimed answer is in the batch or has a reason"
    run.note(
        "batch",
        rollouts=len(batch.rollouts),
        baselines=batch.baselines,
        reward_mean=sum(batch.rewards) / max(1, len(batch.rewards)),
        keys=batch.keys,
        skipped={name.removeprefix("skipped:"): n for name, n in outcomes.items() if name.startswith("skipped:")},
    )
    return batch


def nothing_to_learn(run: Run, begun: Begun, batch: Batch) -> Outcome:
    """End a job whose every answer was skipped; what the grades said of the keys' values is kept."""
    with run.store.session() as session:
        write_trackers(session, batch.trackers, begun.serving.version)
        run.finish(session, "succeeded", "nothing_to_learn")
    run.over = True
    return "nothing_to_learn"


def examined(run: Run, begun: Begun, policy: Policy, heldout: HeldOut | None) -> Marks | None:
    """Give the serving version's marks: those on record, or, the first time, those of an exam it sits now."""
    if heldout is None:
        return None
    paper = paper_of(heldout, begun.settings)
    with run.store.session() as session:
        known = recorded(evaluations.list_evaluations(session, checkpoint_id=begun.serving_id), paper)
    if known is not None:
        return known
    run.enter("exam")
    marks = sit(policy, heldout, begun.settings, lambda _: run.watch.check())
    with run.store.session() as session:
        kind = "base" if begun.serving.version == 0 else "heldout"
        record_marks(session, get_checkpoint(session, begun.serving_id), kind, marks)
    return marks


def update(run: Run, learner: Learner, batch: Batch) -> UpdateReport:
    """Take the optimizer step.

    Raises:
        UpdateRejected: a guard refused it.
        Cancelled, Stopped, Fenced: the job must end.

    """
    try:
        report = learner.update(batch.rollouts, batch.advantages, cancelled=run.watch.asked_to_end)
    except UpdateCancelled:
        run.watch.check()
        raise
    run.note("update", update=asdict(report))
    return report


def record(settings: Settings, version: int, batch: Batch, report: UpdateReport, after: Marks | None) -> None:
    """Send the update's figures where the operator wants them; what cannot be reached is logged, and learning goes on.

    Args:
        settings: where to.
        version: the candidate's, the step of the curves.
        batch: what was learned from.
        report: the update's.
        after: the candidate's marks, if there was an exam.

    """
    events = settings.var_dir / "tensorboard" if settings.tensorboard else None
    reward = sum(batch.rewards) / len(batch.rewards)
    try:
        with Destinations(events, settings.mlflow_uri).open(settings.served_name, 0) as records:
            for one in records:
                one(version, {"kind": "update", "reward": reward, "answers": len(batch.rewards), **asdict(report)})
                if after is not None and after.marked:
                    one(version, {"kind": "heldout", "value": sum(after.marked) / len(after.marked)})
    except RecorderUnavailable as error:
        log.warning("%s", error)


def gate(run: Run, settings: Settings, before: Marks | None, after: Marks | None) -> bool:
    """Judge the candidate; returns whether to serve it (else it is held).

    Raises:
        GateRefused: it looks worse than what serves.

    """
    old, new = ([], []) if before is None or after is None else pairs(before, after)
    verdict: Verdict = judge(old, new, settings.gate_margin)
    left_out = 0 if after is None else len(after.outcomes) - verdict.n
    run.note("gate", gate={**asdict(verdict), "left_out": left_out})
    if verdict.decision == "reject":
        raise GateRefused(
            f"The gate refused the candidate: {verdict.before:.3f} before, {verdict.after:.3f} after on {verdict.n} "
            f"held-out prompts, difference {verdict.difference:+.3f} ({verdict.low:+.3f} to {verdict.high:+.3f})"
        )
    return verdict.decision == "promote" or settings.gate_no_signal == "promote"


def promote(shop: Workshop, run: Run, begun: Begun, candidate: Candidate, batch: Batch, *, serve: bool) -> Outcome:
    """Make the candidate the serving version, or hold it; then tell servers, and tidy up."""
    with shop.store.session() as session:
        settle(session, run, begun, candidate, batch.trackers, serve=serve)
    run.over = True
    if serve:
        shop.resident.became(candidate.version)
        ring(shop.redis_url, candidate.version)
    prune(shop.store, candidate.directory.parent, begun.settings.keep_checkpoints)
    return "promoted" if serve else "held"
