"""The loop on a real database with a real model: what is learned, what is not, and what is left behind."""

import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import torch
from safetensors import SafetensorError
from sqlalchemy import func, select
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from app.errors import Conflict, Unavailable
from app.store import checkpoints, evaluations, events, jobs, learnable, learning, lineage, policy_life
from app.store.budgets import PROMPT, WORKER
from app.store.connect import open_store
from app.store.tables import Claim, Evaluation, JobEvent, TrackerValue
from tests.patience import PATIENCE_S
from tests.worker.world import World, even, write_heldout
from training.models.checkpoint import verify
from training.models.lora import made_of
from training.models.policy import fingerprint, load_policy
from training.models.seal import BadCheckpoint
from training.update import Learner
from worker.batch import Batch
from worker.claim import begin
from worker.gate.comparison import questions
from worker.gate.evaluation import Scores, conditions_of, make_plan, read_scores
from worker.gate.evaluation_set import read_evaluation_set
from worker.job import MOST_FAILURES, RunningJob, end_lost_jobs, heartbeat
from worker.learn import carry_out, learn, update
from worker.publish import record_scores
from worker.resident import update_config
from worker.watchdog import Watchdog

NEVER_RIGHT = {"type": "string_check", "reference": "no byte soup is this", "operation": "eq"}
ALWAYS_RIGHT = {"type": "string_check", "reference": "no byte soup is this", "operation": "ne"}


def test_grades_become_a_policy_that_serves(world: World) -> None:
    ids = world.samples()
    assert learn(world.context) == "promoted"
    serving = world.serving()
    assert serving.version == 1
    manifest = verify(world.checkpoints_dir / "v00000001")
    assert manifest.fingerprint == serving.digest == fingerprint(world.policy().model)
    assert set(world.claims()) == set(ids)
    (job,) = world.jobs()
    assert (job.status, job.verdict, job.result_checkpoint_id) == ("succeeded", "promoted", serving.id)
    assert job.metrics["update"]["rollouts"] == world.reasons()["learned"]
    assert job.metrics["baselines"] == {"group": world.reasons()["learned"]}
    assert serving.metrics["drift"] == pytest.approx(job.metrics["update"]["kl"])
    assert set(job.metrics["seconds"]) == {"claim", "batch", "update", "gate", "publish", "settle"}
    assert learn(world.context) == "idle"


def test_adapters_learn_job_after_job(world: World) -> None:
    world = world.with_settings(lora_rank=2, learning_rate=0.01, max_kl=10)
    for version in (1, 2):
        world.samples()
        assert learn(world.context) == "promoted"
        serving = world.serving()
        manifest = verify(Path(serving.path))
        assert serving.version == manifest.version == version
        assert "adapter/adapter_model.safetensors" in manifest.files
        assert made_of(Path(serving.path))[0] == str(world.checkpoints_dir / "v00000000")


def test_the_policy_gets_better_update_by_update(world: World) -> None:
    rates: list[float] = []
    outcome = "promoted"
    while outcome == "promoted" and len(rates) < 6:
        answers = world.ask([f"{index} and {index % 7}" for index in range(8)], choices=8)
        rates.append(sum(even(one) for _, one in answers) / len(answers))
        world.grade(answers)
        outcome = learn(world.context)
    assert outcome == ("idle" if rates[-1] == 1.0 else "promoted"), "only perfection stops it"
    assert rates[0] < 0.7
    assert rates[-1] > rates[0] + 0.2


def test_too_few_grades_leave_no_trace_and_a_request_runs_all_the_same(world: World) -> None:
    world.samples(groups=1)
    assert learn(world.context) == "idle"
    assert world.jobs() == []
    assert world.claims() == {}
    with world.store.session() as session:
        jobs.request(session, trigger="admin", requested_by="someone")
    outcome = learn(world.context)
    assert outcome in {"promoted", "nothing_to_learn"}
    assert len(world.claims()) == 4, "a group is learned from, or known to teach nothing"


def test_one_waiting_grade_is_not_burnt_by_a_request(world: World) -> None:
    world.grade(world.ask(["alone"]))
    with world.store.session() as session:
        jobs.request(session, trigger="admin", requested_by="someone")
    assert learn(world.context) == "nothing_to_learn"
    assert world.claims() == {}, "it waits for others to be compared with"
    assert world.jobs()[0].metrics["waiting"] == 1


def test_praise_alone_waits_for_contrast_and_one_blame_makes_all_teach(world: World) -> None:
    single = world.with_settings(baseline="batch")
    single.grade(single.ask([f"liked {index}" for index in range(10)]), lambda _: 1.0)
    assert learn(single.context) == "idle"
    assert (single.jobs(), single.claims()) == ([], {})
    single.grade(single.ask(["disliked"]), lambda _: 0.0)
    assert learn(single.context) == "promoted"
    assert single.reasons() == {"learned": 11}


def test_when_learning_is_off_only_what_is_asked_for_runs(world: World) -> None:
    off = world.with_settings(learn=False)
    off.samples()
    assert learn(off.context) == "idle"
    with world.store.session() as session:
        jobs.request(session, trigger="admin", requested_by="someone", config={"learning_rate": 0.001})
    assert learn(off.context) == "promoted"
    assert off.jobs()[0].metrics["update"]["learning_rate"] == 0.001


def test_a_job_that_asks_for_what_is_not_its_own_is_refused(world: World) -> None:
    world.samples()
    with world.store.session() as session:
        jobs.request(
            session, trigger="admin", requested_by="someone", config={"database_url": "postgresql://elsewhere"}
        )
    assert learn(world.context) == "idle"
    (job,) = world.jobs()
    assert (job.status, job.verdict, job.fault) == ("failed", "invalid", "operator")
    assert "database_url" in (job.error or "")
    assert world.claims() == {}


def test_a_guards_refusal_tries_the_grades_once_more_smaller_and_slower_before_they_are_spent(world: World) -> None:
    strict = world.with_settings(max_kl=1e-9, max_grades=32)
    ids = strict.samples()
    assert learn(strict.context) == "ended"
    (job,) = strict.jobs()
    assert (job.status, job.verdict, job.fault) == ("failed", "refused", "policy")
    assert job.diagnosis is not None
    assert job.diagnosis["reason"] == "policy_moved_too_far"
    assert strict.serving().version == 0
    assert strict.claims() == {}, "every answer gets a second chance"
    with strict.store.session() as session:
        control = learning.read(session)
        assert (control.refusals, control.rate_scale, control.batch_scale) == (1, 0.5, 0.5)
    assert learn(strict.context) == "ended"
    assert strict.jobs()[1].metrics["rollouts"] == len(ids) // 2
    assert strict.reasons() == {"refused": len(ids) // 2}
    world.samples()
    assert learn(world.context) == "promoted"
    with world.store.session() as session:
        control = learning.read(session)
        assert (control.refusals, control.batch_scale) == (0, 1.0)
        assert 0 < control.rate_scale < 1, "the rate comes back step by step"


def test_refusals_in_a_row_freeze_learning_until_somebody_thaws_it(world: World) -> None:
    strict = world.with_settings(max_kl=1e-9, freeze_after=2)
    for _ in range(2):
        strict.samples()
        assert learn(strict.context) == "ended"
    strict.samples()
    assert learn(strict.context) == "idle"
    with world.store.session() as session:
        assert learning.read(session).frozen_by == "gate"
        assert "frozen by gate" in (learnable.outlook(session, strict.settings).words or "")
        learning.thaw(session, "someone")
    assert learn(world.context) == "promoted"


def test_a_freeze_during_an_update_ends_it_and_gives_everything_back(world: World) -> None:
    world.samples()
    freezing = threading.Thread(target=freeze_while_a_job_runs, args=(world,))
    freezing.start()
    outcome = learn(world.context)
    freezing.join()
    (job,) = world.jobs()
    assert (outcome, job.status, job.fault) == ("ended", "cancelled", "operator")
    assert (world.serving().version, set(world.reasons())) == (0, set())
    assert learn(world.context) == "idle"


def freeze_while_a_job_runs(world: World) -> None:
    """Freeze learning as soon as a job is seen."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with world.store.session() as session:
            if jobs.running(session) is not None:
                learning.freeze(session, "someone", "look first")
                return
        time.sleep(0.001)


def test_a_rollback_during_an_update_stands(world: World) -> None:
    world.samples()
    assert learn(world.context) == "promoted"
    ids = world.samples()
    assignment = begin(world.context)
    assert assignment is not None
    with world.store.session() as session:
        policy_life.rollback(session, "someone")
        learning.thaw(session, "someone")  # even then: what it learned on serves no more
    assert carry_out(world.context, assignment) == "ended"
    job = world.jobs()[-1]
    assert (job.status, job.verdict, job.fault) == ("cancelled", "overtaken", "operator")
    assert world.serving().version == 0
    assert not set(ids) & set(world.claims())
    assert learn(world.context) == "promoted"
    assert world.serving().version == 2


@pytest.mark.parametrize(
    ("bound", "reason"),
    [
        ({"min_entropy": 100.0}, "entropy_collapsed"),
        ({"max_gradient_norm": 1e-9}, "gradient_exploded"),
        ({"min_mean_tokens": 100.0}, "length_out_of_bounds"),
        ({"max_mean_tokens": 1.0}, "length_out_of_bounds"),
    ],
)
def test_every_guard_keeps_the_policy_and_leaves_its_diagnosis_on_the_job(
    world: World, bound: dict[str, float], reason: str
) -> None:
    before = fingerprint(world.policy().model)
    guarded = world.with_settings(**bound)
    guarded.samples()
    assert learn(guarded.context) == "ended"
    (job,) = guarded.jobs()
    assert (job.status, job.verdict) == ("failed", "refused")
    assert job.diagnosis is not None
    assert job.diagnosis["reason"] == reason
    assert set(bound.values()) & set(job.diagnosis.values()), "the diagnosis states the bound"
    assert guarded.serving().version == 0
    assert fingerprint(guarded.policy().model) == before


def test_numbers_that_are_none_keep_the_policy_and_leave_their_diagnosis(world: World) -> None:
    world.samples()
    assert learn(world.context) == "promoted"
    before = fingerprint(world.policy().model)
    overflowing = world.with_settings(kl_beta=1e300)  # float32 has no such number
    for broken, reasons in (
        (overflowing, {"loss_not_finite", "gradient_not_finite"}),
        (world.with_settings(learning_rate=1e30), {"policy_moved_too_far"}),
    ):
        broken.samples()
        assert learn(broken.context) == "ended"
        job = broken.jobs()[-1]
        assert (job.status, job.verdict) == ("failed", "refused")
        assert job.diagnosis is not None
        assert job.diagnosis["reason"] in reasons
        assert job.diagnosis["advice"]
    assert world.serving().version == 1
    assert fingerprint(world.policy().model) == before
    world.samples()
    assert learn(world.context) == "promoted"


@pytest.mark.parametrize(("clip", "clipped"), [(0.0, True), (0.9, False)])
def test_the_clip_of_the_service_clips_what_moved_within_an_update(world: World, clip: float, clipped: bool) -> None:
    world = world.with_settings(clip_low=clip, clip_high=10 * clip, epochs=3, max_kl=100)
    world.samples()
    assert learn(world.context) == "promoted"
    report = world.jobs()[-1].metrics["update"]
    assert report["optimizer_steps"] == 3
    assert (report["objective"]["clip_fraction"] > 0.1) is clipped


def test_answers_of_an_older_version_are_weighed_and_not_clipped(world: World) -> None:
    """The clip holds what moves within an update; what was drawn before it has truncated weights."""
    world = world.with_settings(clip_low=0.0, clip_high=0.0)
    older = world.ask([f"w{index} w3" for index in range(8)], choices=4)
    world.samples()
    assert learn(world.context) == "promoted"
    world.grade(older)
    assert learn(world.context) == "promoted"
    seen = world.jobs()[-1].metrics["update"]["objective"]
    assert seen["mean_ratio"] != pytest.approx(1.0, abs=1e-3), "the answers are of another policy"
    assert seen["mean_weight"] != pytest.approx(1.0, abs=1e-3)
    assert seen["latent_sampler_kl"] > 1e-4
    assert seen["clip_fraction"] == 0.0


def test_beta_holds_the_policy_near_the_first_checkpoint(world: World) -> None:
    world.samples()
    assert learn(world.context) == "promoted"
    drifts = {}
    for beta in (0.0, 100.0):
        world.with_settings(kl_beta=beta, gate_no_signal="hold", learning_rate=0.002).samples()
        trial = world.with_settings(kl_beta=beta, gate_no_signal="hold", learning_rate=0.002)
        assert learn(trial.context) == "held"
        assert (trial.jobs()[-1].metrics["update"]["objective"]["reference_kl"] > 0) is (beta > 0)
        with world.store.session() as session:
            made = checkpoints.by_version(session, checkpoints.next_version(session) - 1)
            policy_life.move(session, made.id, "discard", "only a trial", "test")
        drifts[beta] = distance(Path(made.path), world.checkpoints_dir / "v00000000")
    serving = distance(Path(world.serving().path), world.checkpoints_dir / "v00000000")
    assert drifts[100.0] < serving
    assert drifts[100.0] < drifts[0.0]


def distance(ours: Path, theirs: Path) -> float:
    """Mean KL between two checkpoints' next tokens on a few prompts, nats."""
    one, other = (load_policy(path, version=0, dtype=torch.float32, device="cpu") for path in (ours, theirs))
    ids = torch.tensor([one.tokenizer.encode(f"w{index} w{index + 3} w{index + 1}") for index in range(10, 26)])
    with torch.no_grad():
        p, q = (policy.model(input_ids=ids).logits.log_softmax(-1) for policy in (one, other))
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_figures_go_to_tensorboard_when_asked(world: World, tmp_path: Path) -> None:
    held = write_heldout(tmp_path / "held.jsonl", [f"question {index}" for index in range(6)], ALWAYS_RIGHT)
    for wish in (False, True):
        shown = world.with_settings(heldout=held, tensorboard=wish)
        shown.samples()
        assert learn(shown.context) == "promoted"
        assert (shown.settings.var_dir / "tensorboard").exists() == wish
    read = EventAccumulator(str(world.settings.var_dir / "tensorboard"))
    read.Reload()
    [loss], [mark] = read.Scalars("update/loss"), read.Scalars("heldout/value")
    assert (loss.step, mark.step, mark.value) == (2, 2, 1.0)
    told = world.jobs()[-1].metrics["update"]["loss"]
    assert loss.value == pytest.approx(told, rel=1e-5)  # the files hold float32


def test_an_mlflow_server_out_of_reach_does_not_stop_learning(world: World, caplog: pytest.LogCaptureFixture) -> None:
    unreachable = world.with_settings(mlflow_uri="nonsense://nowhere")
    unreachable.samples()
    assert learn(unreachable.context) == "promoted"
    assert "MLflow at nonsense://nowhere does not take records" in caplog.text


def fallen_below_the_base(world: World, held: Path, keep_refused: int = 2) -> World:
    """Have version 1 serve, of which the gate finds that it answers everything wrong and the base everything right."""
    world.samples()
    assert learn(world.context) == "promoted"
    write_heldout(held, [f"question {index}" for index in range(30)], NEVER_RIGHT)
    gated = world.with_settings(heldout=held, keep_refused=keep_refused)
    questions = read_evaluation_set(held, 30, gated.policy().tokenizer, gated.settings.heldout_sealed)
    plan = make_plan("long ago", questions.questions, [], 200, conditions_of(gated.settings))
    with gated.store.session() as session:  # on record: the base got everything right
        record_scores(session, checkpoints.by_version(session, 0), "base", Scores(plan, (1.0,) * 200))
    gated.samples()
    return gated


def test_the_gate_refuses_a_candidate_that_answers_worse_than_the_base(world: World, tmp_path: Path) -> None:
    gated = fallen_below_the_base(world, tmp_path / "held.jsonl")
    assert learn(gated.context) == "refused"
    job = gated.jobs()[-1]
    assert (job.status, job.verdict) == ("succeeded", "refused")
    gate = job.metrics["gate"]
    assert (gate["decision"], gate["beside"]["base"]["version"]) == ("refuse", 0)
    assert gate["beside"]["base"]["difference"] == pytest.approx(-1.0)
    assert "against the base" in (job.error or "")
    assert verify(gated.checkpoints_dir / "v00000002").version == 2, "it is kept for a while, to be looked into"
    with gated.store.session() as session:
        serving = checkpoints.by_version(session, 1)
        assert [row.kind for row in evaluations.list_evaluations(session, checkpoint_id=serving.id)] == ["heldout"]


@pytest.mark.parametrize("keep_refused", [0, 2])
def test_what_serves_gives_way_to_a_forebear_it_is_shown_to_be_worse_than(
    world: World, tmp_path: Path, keep_refused: int
) -> None:
    gated = fallen_below_the_base(world, tmp_path / "held.jsonl", keep_refused)
    learn(gated.context)
    assert gated.jobs()[-1].verdict == "refused"
    assert gated.serving().version == 0
    with gated.store.session() as session:
        assert checkpoints.by_version(session, 1).state == "rolled_back"
        entry = policy_life.history(session, checkpoint_id=checkpoints.by_version(session, 0).id, limit=1)[0]
        control = learning.read(session)
        said = [one.message for one in events.list_events(session, gated.jobs()[-1].id)]
    assert (entry.event, entry.actor, entry.reason) == (
        "restore",
        "worker",
        "the gate found what serves to be worse than version 0",
    )
    assert entry.figures["gate"]["decision"] == "refuse"
    assert "the gate found what serves to be worse than version 0; version 0 serves again" in said
    assert (control.frozen_at, control.refusals, control.rate_scale) == (None, 1, 0.5), "learning goes on, carefully"


def test_what_a_person_put_there_stays_though_a_forebear_is_better(world: World, tmp_path: Path) -> None:
    gated = fallen_below_the_base(world, tmp_path / "held.jsonl")
    with gated.store.session() as session:
        policy_life.promote(session, checkpoints.by_version(session, 0).id, "a look at the old one", "k1")
        policy_life.promote(session, checkpoints.by_version(session, 1).id, "the new one all the same", "k1")
    assert learn(gated.context) == "refused"
    assert gated.serving().version == 1
    with gated.store.session() as session:
        said = [one.message for one in events.list_events(session, gated.jobs()[-1].id)]
    assert any("a person put it there" in one for one in said)


def test_every_look_asks_anew_and_keeps_what_it_asked(world: World, tmp_path: Path) -> None:
    held = write_heldout(tmp_path / "held.jsonl", [f"question {index}" for index in range(6)], ALWAYS_RIGHT)
    gated = world.with_settings(heldout=held)
    for _ in range(2):
        gated.samples(groups=4)
        assert learn(gated.context) == "promoted"
    with gated.store.session() as session:
        rows = list(session.scalars(select(Evaluation).order_by(Evaluation.id)))
        versions = [checkpoints.get_checkpoint(session, row.checkpoint_id).version for row in rows]
    kinds = list(zip(versions, [row.kind for row in rows], strict=True))
    assert [one for one in kinds if one[1] != "base"] == [(1, "gate"), (1, "heldout"), (2, "gate")]
    assert kinds[0] == (0, "base")
    assert all(row.correct == row.total for row in rows)
    scores = [one for row in rows if (one := read_scores(row.detail)) is not None]
    assert len(scores) == len(rows)
    first, second = (
        {item.seed for one in scores if one.plan.name == str(job.id) for item in one.plan.items} for job in gated.jobs()
    )
    assert first
    assert second
    assert not first & second
    assert [job.metrics["gate"]["decision"] for job in gated.jobs()] == ["pass", "pass"]
    assert "against the base" in gated.jobs()[1].metrics["gate"]["words"]


@pytest.mark.parametrize(("policy", "outcome", "version"), [("promote", "promoted", 1), ("hold", "held", 0)])
def test_a_gate_without_signal_does_what_the_operator_chose(
    world: World, policy: str, outcome: str, version: int
) -> None:
    chosen = world.with_settings(gate_no_signal=policy)
    chosen.samples()
    assert learn(chosen.context) == outcome
    gate = chosen.jobs()[0].metrics["gate"]
    assert gate["decision"] == ("pass" if policy == "promote" else "hold")
    assert "held-out prompts" in gate["words"]
    assert chosen.serving().version == version
    verify(chosen.checkpoints_dir / "v00000001")


def test_the_sealed_share_is_the_settings(world: World, tmp_path: Path) -> None:
    held = write_heldout(tmp_path / "held.jsonl", [f"question {index}" for index in range(60)], ALWAYS_RIGHT)
    none, half = (world.with_settings(heldout=held, heldout_sealed=share) for share in (0.0, 0.5))
    with world.store.session() as session:
        open_all, open_half = (questions(session, one.settings, world.policy()) for one in (none, half))
    assert open_all is not None
    assert open_half is not None
    assert (len(open_all.questions), len(open_all.sealed)) == (60, 0)
    assert 15 < len(open_half.sealed) == 60 - len(open_half.questions) < 45


def test_nobody_learns_from_a_held_out_prompt(world: World, tmp_path: Path) -> None:
    held = write_heldout(tmp_path / "held.jsonl", ["a secret question"], ALWAYS_RIGHT)
    gated = world.with_settings(heldout=held)
    secret = gated.grade(gated.ask(["a secret question", "A  secret QUESTION "], choices=4))
    gated.samples()
    assert learn(gated.context) == "promoted"
    claimed = gated.claims()
    assert {claimed[one] for one in secret} == {("skipped", "held_out")}
    assert gated.jobs()[0].metrics["skipped"]["held_out"] == 8


def test_answers_are_learned_from_by_how_far_they_are_and_not_by_their_age(world: World) -> None:
    old = world.ask(["an old question"], choices=8)
    for _ in range(4):
        world.samples()
        assert learn(world.context) == "promoted"
    late = world.grade(old)
    world.samples()
    assert learn(world.context) == "promoted"
    claims = measured(world)
    assert {world.claims()[one][0] for one in late} == {"learned"}
    found = [figures(claims[one]) for one in late]
    assert all(divergence > 0 and weight != 1 for divergence, weight in found), "they are of another policy"
    job = claims[late[0]].job_id
    fresh = [figures(row) for one, row in claims.items() if one not in set(late) and row.job_id == job]
    assert max(divergence for divergence, _ in fresh) < 1e-6
    assert all(weight == pytest.approx(1.0, abs=1e-3) for _, weight in fresh)


def test_answers_further_than_the_bound_are_left_out_with_their_figure(world: World) -> None:
    old = world.ask(["an old question"], choices=8)
    near = world.with_settings(max_divergence=1e-5)
    near.samples()
    assert learn(near.context) == "promoted"
    near.grade(old)
    near.samples()
    assert learn(near.context) == "promoted"
    assert near.jobs()[1].metrics["skipped"]["diverged"] == 8
    assert all(figures(measured(near)[one])[0] > 1e-5 for one, _ in old)


def figures(claim: Claim) -> tuple[float, float]:
    assert claim.divergence is not None
    return claim.divergence, claim.weight if claim.weight is not None else 1.0


def measured(world: World) -> dict[UUID, Claim]:
    with world.store.session() as session:
        return {row.interaction_id: row for row in session.scalars(select(Claim))}


def test_an_answer_of_an_abandoned_branch_teaches_by_its_distance_too(world: World) -> None:
    world.samples()
    assert learn(world.context) == "promoted"
    answers = world.grade(world.ask(["after the update"], choices=4))
    with world.store.session() as session:
        policy_life.rollback(session, "someone")
        learning.thaw(session, "someone")
    world.samples()
    assert learn(world.context) == "promoted"
    assert {world.claims()[one][0] for one in answers} <= {"learned", "skipped"}
    assert {world.claims()[one][1] for one in answers} <= {None, "no_variance"}
    with world.store.session() as session:
        second = checkpoints.by_version(session, 2)
        assert second.parent_id == checkpoints.by_version(session, 0).id
        inside, abandoned = lineage.count_learned(session, second.id)
    assert abandoned > 0, "what version 1 learned is in no policy that serves"
    assert inside == world.jobs()[-1].metrics["update"]["rollouts"]


def test_greedy_answers_carry_no_information_and_say_so(world: World) -> None:
    ids = world.grade(world.ask(["greedy one", "greedy two"], choices=4, temperature=0.0))
    world.samples()
    assert learn(world.context) == "promoted"
    assert {world.claims()[one] for one in ids} == {("skipped", "no_exploration")}


def test_answers_that_were_cut_short_teach_nothing_where_they_are_masked(world: World) -> None:
    masked = world.with_settings(overlong="mask", min_grades=2)
    answers = masked.ask([f"w{index}" for index in range(8)], choices=4)
    masked.grade(answers)
    cut = {one for one, finished in answers if finished.rollout.truncated}
    assert cut
    assert learn(masked.context) in {"promoted", "nothing_to_learn"}
    assert {one for one, found in masked.claims().items() if found == ("skipped", "truncated")} == cut


def test_a_job_by_dr_grpo_divides_no_advantage(world: World) -> None:
    losses = {}
    for normalization in ("dr_grpo", "grpo"):
        one = world.with_settings(normalization=normalization, learning_rate=1e-9)
        one.grade(one.ask(["w2 w3"], choices=8), lambda finished: 1e-3 * even(finished))
        assert learn(one.context) == "promoted"
        losses[normalization] = one.jobs()[-1].metrics["update"]["gradient_norm"]
    assert losses["dr_grpo"] < 0.02 * losses["grpo"], "rewards of 0.001 are advantages of 0.001"


def test_single_grades_learn_by_a_tracker_that_remembers(world: World) -> None:
    tracked = world.with_settings(baseline="tracker")
    for _ in range(2):
        tracked.grade(tracked.ask([f"alone {index}" for index in range(16)], task="sums"))
        assert learn(tracked.context) == "promoted"
    assert set(tracked.jobs()[1].metrics["baselines"]) == {"tracker"}
    with tracked.store.session() as session:
        (row,) = session.scalars(select(TrackerValue))
    assert row.key == "/sums/client"
    assert row.policy_version == 1
    assert row.alpha + row.beta > 8.0


@pytest.mark.parametrize(("share", "flooded"), [(0.5, 10), (0.2, 2)])
def test_a_key_that_floods_is_held_to_its_share(world: World, share: float, flooded: int) -> None:
    capped = world.with_settings(key_share=share, baseline="batch")
    capped.grade(capped.ask([f"flood {i}" for i in range(40)]), lambda _: 1.0, "flooder", keyed=True)
    for number in range(5 if share < 0.5 else 1):
        capped.grade(
            capped.ask([f"honest {number} {i}" for i in range(2 if share < 0.5 else 10)]),
            even,
            f"honest {number}",
            keyed=True,
        )
    assert learn(capped.context) == "promoted"
    assert sum(capped.jobs()[0].metrics["keys"].values()) == 10 + flooded
    assert len(capped.claims()) == 10 + flooded, "the rest waits"


def test_answers_that_are_left_out_make_no_room_for_another_key(world: World) -> None:
    capped = world.with_settings(key_share=0.5, baseline="batch")
    capped.grade(capped.ask([f"flood {i}" for i in range(20)]), lambda _: 1.0, "flooder", keyed=True)
    capped.grade(capped.ask([f"honest {i}" for i in range(6)]), even, "honest", keyed=True)
    capped.grade(capped.ask([f"greedy {i}" for i in range(4)], temperature=0.0), even, "honest", keyed=True)
    assert learn(capped.context) == "promoted"
    assert capped.jobs()[0].metrics["keys"] == {capped.key("flooder"): 6, capped.key("honest"): 6}
    assert sorted(capped.claims().values(), key=str) == [("learned", None)] * 12 + [("skipped", "no_exploration")] * 4


def test_an_operators_cancel_gives_the_claims_back(world: World) -> None:
    ids = world.samples()
    cancelling = threading.Thread(target=cancel_the_running_job, args=(world,))
    cancelling.start()
    outcome = learn(world.context)
    cancelling.join()
    (job,) = world.jobs()
    assert (outcome, job.status) == ("ended", "cancelled")
    assert set(world.reasons()) <= {"no_variance"}
    assert world.serving().version == 0
    assert learn(world.context) == "promoted"
    assert set(world.claims()) == set(ids)


def cancel_the_running_job(world: World) -> None:
    """Cancel a job as soon as one is seen."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with world.store.session() as session:
            job = jobs.running(session)
            if job is not None:
                jobs.cancel(session, job.id)
                return
        time.sleep(0.001)


def test_a_cancel_is_honoured_between_micro_batches_and_leaves_the_weights_alone(world: World) -> None:
    policy = world.policy()
    before = fingerprint(policy.model)
    rollouts = [finished.rollout for _, finished in world.ask(["a question"], choices=8, policy=policy)]
    batch = Batch(rollouts, [1.0, -1.0] * 4, [], [], {}, {}, {}, [], {})
    learner = Learner(policy.model, update_config(world.with_settings(micro_batch_tokens=64).settings))
    with world.store.session() as session:
        jobs.request(session, trigger="admin", requested_by="someone")
        job = jobs.start(session, "this worker", timedelta(minutes=1))
        assert job is not None
        assert job.fence is not None
    asked = threading.Event()
    with Watchdog(lambda: "asked" if asked.is_set() else None, never, limit_s=60, every_s=0.001) as watchdog:
        asked.set()
        while not watchdog.asked_to_end():
            time.sleep(0.001)
        with RunningJob(world.store, job.id, job.fence, world.settings, watchdog) as running:
            update(running, learner, batch)
    assert world.jobs()[0].status == "cancelled"
    assert fingerprint(policy.model) == before


def never(phase: str, wrong: str, doing: str) -> None:
    raise AssertionError(f"{phase} {wrong}: {doing}")


def test_a_worker_asked_to_stop_gives_back_what_it_was_learning_from(world: World) -> None:
    world.samples()
    world.context.stopping.set()
    assert learn(world.context) == "ended"
    (job,) = world.jobs()
    assert (job.status, job.verdict) == ("failed", "stopped")
    assert world.claims() == {}
    world.context.stopping.clear()
    assert learn(world.context) == "promoted"


def test_a_job_that_was_taken_over_writes_nothing_more(world: World) -> None:
    with world.store.session() as session:
        jobs.request(session, trigger="admin", requested_by="someone")
        job = jobs.start(session, "worker one", timedelta(0))
        assert job is not None
        assert job.fence is not None
    assert end_lost_jobs(world.store) == 1
    with world.store.session() as session:
        before = session.scalar(select(func.count()).select_from(JobEvent))
    watchdog = Watchdog(lambda: None, lambda *_: None, limit_s=60)
    with RunningJob(world.store, job.id, job.fence, world.settings, watchdog) as running:
        running.enter("batch")
        raise AssertionError("a fenced job went on")
    with world.store.session() as session:
        after = jobs.get_job(session, job.id)
        assert (after.status, after.phase, after.error) == ("failed", "start", "worker lost")
        assert session.scalar(select(func.count()).select_from(JobEvent)) == before


def test_what_always_fails_freezes_learning_and_costs_nothing(world: World) -> None:
    ids = world.samples()
    broken = world.checkpoints_dir / "v00000000" / "model.safetensors"
    content = broken.read_bytes()
    broken.write_bytes(content[:-8])
    for _ in range(MOST_FAILURES):
        until(lambda: runs_and_fails(world))
    assert {(job.status, job.fault) for job in world.jobs()} == {("failed", "infrastructure")}
    assert "BadCheckpoint" in (world.jobs()[0].error or "")
    assert world.claims() == {}, "every answer can still be learned from"
    assert learn(world.context) == "idle"
    with world.store.session() as session:
        assert "BadCheckpoint" in (learning.read(session).frozen_reason or "")
        learning.thaw(session, "someone")
    broken.write_bytes(content)
    until(lambda: learn(world.context) == "promoted")
    assert set(world.claims()) == set(ids)


def runs_and_fails(world: World) -> bool:
    """Whether a look led to a job, which failed; after a failure there is a pause."""
    try:
        return learn(world.context) != "idle"
    except BadCheckpoint:
        return True


def test_a_heartbeat_that_cannot_be_written_is_given_up_soon(world: World, database_url: str) -> None:
    world.samples()
    assignment = begin(world.context)
    assert assignment is not None
    with closing(open_store(database_url, budget=WORKER)) as patient, world.store.session() as other:
        jobs.held(other, assignment.job_id, assignment.fence)
        began = time.monotonic()
        with pytest.raises(Unavailable):
            heartbeat(patient, assignment)
        assert time.monotonic() - began < 2 * (PROMPT.lock_s or 0)


SMALL_FILE = 60_000  # bytes; the tiny model's weights are larger


@contextmanager
def no_room() -> Iterator[None]:
    """Let no file grow beyond a limit, so that what writes weights meets a real error of a real write."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_FILE, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_costs_nothing_and_freezes_nothing(world: World) -> None:
    ids = world.samples()
    with no_room():
        for _ in range(MOST_FAILURES + 1):
            until(lambda: fails_for_space(world))
    with world.store.session() as session:
        assert learning.read(session).frozen_at is None
        assert jobs.failures_in_a_row(session) == MOST_FAILURES + 1
    assert {job.fault for job in world.jobs()} == {"infrastructure"}
    with world.store.session() as session:
        assert "jobs failed for want of something" in (learnable.outlook(session, world.settings).words or "")
    until(lambda: learn(world.context) == "promoted")
    assert set(world.claims()) == set(ids)


def test_shortages_do_not_count_among_the_failures_that_freeze(world: World) -> None:
    world.samples()
    with no_room():
        for _ in range(MOST_FAILURES - 1):
            until(lambda: fails_for_space(world))
    broken = world.checkpoints_dir / "v00000000" / "model.safetensors"
    content = broken.read_bytes()
    broken.write_bytes(content[:-8])
    until(lambda: runs_and_fails(world))
    with world.store.session() as session:
        assert (jobs.failures_in_a_row(session), jobs.bugs_in_a_row(session)) == (MOST_FAILURES, 1)
        assert learning.read(session).frozen_at is None
    broken.write_bytes(content)
    until(lambda: learn(world.context) == "promoted")


def fails_for_space(world: World) -> bool:
    try:
        return learn(world.context) != "idle"
    except (OSError, SafetensorError):
        return True


def until(holds: Callable[[], bool], limit_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def test_old_checkpoints_leave_the_disk_and_those_that_matter_stay(world: World) -> None:
    few = world.with_settings(keep_checkpoints=2)
    for _ in range(4):
        few.samples(groups=2)
        assert learn(few.context) == "promoted"
    assert sorted(path.name for path in few.checkpoints_dir.iterdir()) == ["v00000000", "v00000003", "v00000004"]
    with few.store.session() as session:
        gone = [row.version for row in checkpoints.list_checkpoints(session) if row.files_deleted_at]
        assert sorted(gone) == [1, 2]
        with pytest.raises(Conflict, match="deleted"):
            policy_life.rollback(session, "someone", to=checkpoints.by_version(session, 1).id)


def test_files_of_a_killed_publisher_are_replaced(world: World) -> None:
    leftover = world.checkpoints_dir / "v00000001"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    (world.checkpoints_dir / ".unfinished-v00000001-00000000").mkdir()
    world.samples()
    assert learn(world.context) == "promoted"
    verify(leftover)
    assert sorted(path.name for path in world.checkpoints_dir.iterdir()) == ["v00000000", "v00000001"]
