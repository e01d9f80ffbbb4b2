"""An improvement, from fresh grades to a policy that serves: claim, batch, update, gate, publish, promote.

What there is to do stands in Postgres; whoever calls `learn` only says "look now". One learner works at a time, under a
lock that dies with it. Killed at any point, it leaves a job that the next learner ends, claims that go back, and either
a promoted checkpoint with its grades spent or neither. Leaves out how each step is done (the files named below).
"""

import logging
import random
from collections.abc import Mapping
from dataclasses import asdict
from typing import Final, Literal

from app.settings import Settings
from app.store import checkpoints, claims, evaluations, jobs
from app.store.checkpoints import by_version, get_checkpoint
from training.health import UpdateCancelled
from training.policy import Policy
from training.update import Learner, UpdateReport
from worker.batch import Batch, build
from worker.begin import Begun, begin
from worker.beliefs import read_trackers, write_trackers
from worker.evaluation import EvaluationPlan, Scores, evaluate
from worker.evaluation_set import EvaluationSet, read_evaluation_set
from worker.gate import Ask, GateResult, Look, Vitals, no_questions, recorded_of
from worker.lessons import Rules, sift
from worker.lock import learner_lock
from worker.plan import update_config
from worker.promote import Candidate, prune, publish_files, record_scores, ring, settle
from worker.recorders import Destinations, RecorderUnavailable
from worker.regroup import regroup
from worker.resident import Source
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
    look, before = None, None
    there: dict[int, Source] = {}
    if heldout is not None:
        run.enter("evaluate")
        look, there = look_of(run, begun, heldout)
        before = evaluate(policy, heldout, look.first, begun.settings, lambda _: run.watch.check())

    run.enter("update")
    report = update(run, learner, batch)
    shop.resident.learned()

    run.enter("gate")
    result = no_questions(begun.settings)
    if look is not None and before is not None:
        vitals = Vitals(report.entropy_before, report.entropy_after)
        result = look.examine(before, asking(shop, run, policy, look, there), vitals)
    after = None if look is None else result.of(look.candidate)
    record(shop.settings, begun.serving.version + 1, batch, report, after)
    serve = gate(run, begun, look, result)

    run.enter("publish")
    directory = shop.settings.var_dir / CHECKPOINTS
    state, beside = learner.state(), shop.resident.beside
    candidate = publish_files(run, begun, policy, state, beside, directory, begun.drift + report.kl, after)

    run.enter("promote")
    return promote(shop, run, begun, candidate, batch, serve=serve)


def questions(settings: Settings, policy: Policy) -> EvaluationSet | None:
    """Read the held-out set, if there is one."""
    if settings.heldout is None:
        return None
    return read_evaluation_set(settings.heldout, settings.heldout_size, policy.tokenizer, settings.heldout_sealed)


def gather(run: Run, begun: Begun, heldout: EvaluationSet | None, policy: Policy) -> Batch:
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


def look_of(run: Run, begun: Begun, heldout: EvaluationSet) -> tuple[Look, dict[int, Source]]:
    """Prepare the gate's look, with what the serving version and its forebears were asked before.

    Returns:
        the look, and where the weights of those forebears are that may be asked again.

    """
    with run.store.session() as session:
        lineage = [get_checkpoint(session, begun.serving_id)]
        while (parent := lineage[-1].parent_id) is not None:
            lineage.append(get_checkpoint(session, parent))
        version_of = {one.id: one.version for one in lineage}
        rows = [row for row in evaluations.list_evaluations(session, limit=400) if row.checkpoint_id in version_of]
        first = evaluations.list_evaluations(session, checkpoint_id=lineage[-1].id)
        rows = sorted({row.id: row for row in (*rows, *first)}.values(), key=lambda row: row.id)
        recorded = recorded_of((version_of[row.checkpoint_id], row.detail) for row in rows)
        candidate = checkpoints.next_version(session)
        there = {one.version: Source(one.version, one.path) for one in lineage if not one.metrics.get("deleted")}
    there |= {one.version: one for one in (begun.base, begun.serving)}
    look = Look(
        settings=begun.settings,
        questions=heldout,
        recorded=recorded,
        name=str(begun.job_id),
        candidate=candidate,
        incumbent=begun.serving.version,
        base=begun.base.version,
        reachable=there.keys(),
    )
    return look, there


def asking(shop: Workshop, run: Run, policy: Policy, look: Look, there: Mapping[int, Source]) -> Ask:
    """Make what the gate asks by: the candidate is in memory, a forebear is loaded when it is asked."""
    loaded: dict[int, Policy] = {look.candidate: policy}

    def ask(version: int, plan: EvaluationPlan) -> Scores:
        if version not in loaded:
            loaded[version] = shop.resident.load(there[version])
        return evaluate(loaded[version], look.questions, plan, look.settings, lambda _: run.watch.check())

    return ask


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
    reward = sum(batch.rewards) / len(batch.rewards)
    try:
        with Destinations(events, settings.mlflow_uri).open(settings.served_name, 0) as records:
            for one in records:
                one(version, {"kind": "update", "reward": reward, "answers": len(batch.rewards), **asdict(report)})
                if after is not None and after.graded:
                    one(version, {"kind": "heldout", "value": sum(after.graded) / len(after.graded)})
    except RecorderUnavailable as error:
        log.warning("%s", error)


def gate(run: Run, begun: Begun, look: Look | None, result: GateResult) -> bool:
    """Keep what the gate asked of those who have a row; returns whether to serve the candidate (else it is held).

    Raises:
        GateRefused: it looks worse than what serves, than the base or than the best so far.

    """
    run.note("gate", gate={**result.figures, "words": result.words})
    with run.store.session() as session:
        for version, scores in result.scores:
            if look is not None and version != look.candidate:
                kind = "base" if version == begun.base.version else "heldout"
                record_scores(session, by_version(session, version), kind, scores)
    if result.decision == "refuse":
        raise GateRefused(result.words)
    return result.decision == "pass"


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
