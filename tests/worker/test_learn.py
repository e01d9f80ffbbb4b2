"""The loop on a real database with a real model: what is learned, what is not, and what is left behind."""

import threading
import time
from pathlib import Path

import pytest
import torch
from sqlalchemy import func, select
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from app.errors import Conflict
from app.store import checkpoints, evaluations, jobs, promotions
from app.store.tables import Evaluation, JobEvent, TrackerValue
from tests.worker.world import World, even, write_heldout
from training.checkpoint import verify
from training.lora import made_of
from training.policy import fingerprint, load_policy
from training.update import Learner
from worker.batch import Batch
from worker.evaluation import Scores, conditions_of, make_plan, read_scores
from worker.evaluation_set import read_evaluation_set
from worker.learn import learn, questions, update
from worker.plan import update_config
from worker.promote import record_scores
from worker.run import MOST_FAILURES, Run
from worker.watch import Watch

NEVER_RIGHT = {"type": "string_check", "reference": "no byte soup is this", "operation": "eq"}
ALWAYS_RIGHT = {"type": "string_check", "reference": "no byte soup is this", "operation": "ne"}


def test_grades_become_a_policy_that_serves(world: World) -> None:
    ids = world.lessons()
    assert learn(world.shop) == "promoted"
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
    assert set(job.metrics["seconds"]) == {"claim", "batch", "update", "gate", "publish", "promote"}
    assert learn(world.shop) == "idle"


def test_adapters_learn_job_after_job(world: World) -> None:
    world = world.with_settings(lora_rank=2, learning_rate=0.01, max_kl=10)
    for version in (1, 2):
        world.lessons()
        assert learn(world.shop) == "promoted"
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
        outcome = learn(world.shop)
    assert outcome == ("nothing_to_learn" if rates[-1] == 1.0 else "promoted"), "only perfection stops it"
    assert rates[0] < 0.7
    assert rates[-1] > rates[0] + 0.2


def test_too_few_grades_leave_no_trace_and_a_request_runs_all_the_same(world: World) -> None:
    world.lessons(groups=1)
    assert learn(world.shop) == "idle"
    assert world.jobs() == []
    assert world.claims() == {}
    with world.store.session() as session:
        jobs.request(session, trigger="admin", requested_by="someone")
    assert learn(world.shop) in {"promoted", "nothing_to_learn"}
    assert len(world.claims()) == 4


def test_when_learning_is_off_only_what_is_asked_for_runs(world: World) -> None:
    off = world.with_settings(learn=False)
    off.lessons()
    assert learn(off.shop) == "idle"
    with world.store.session() as session:
        jobs.request(session, trigger="admin", requested_by="someone", config={"learning_rate": 0.001})
    assert learn(off.shop) == "promoted"
    assert off.jobs()[0].metrics["update"]["learning_rate"] == 0.001


def test_a_job_that_asks_for_what_is_not_its_own_is_refused(world: World) -> None:
    world.lessons()
    with world.store.session() as session:
        jobs.request(
            session, trigger="admin", requested_by="someone", config={"database_url": "postgresql://elsewhere"}
        )
    assert learn(world.shop) == "idle"
    (job,) = world.jobs()
    assert (job.status, job.verdict) == ("failed", "refused")
    assert "database_url" in (job.error or "")
    assert world.claims() == {}


def test_a_guards_refusal_keeps_the_policy_spends_the_grades_and_says_why(world: World) -> None:
    strict = world.with_settings(max_kl=1e-9)
    ids = strict.lessons()
    assert learn(strict.shop) == "ended"
    (job,) = strict.jobs()
    assert (job.status, job.verdict) == ("failed", "rejected")
    assert job.diagnosis is not None
    assert job.diagnosis["reason"] == "policy_moved_too_far"
    assert strict.serving().version == 0
    assert set(strict.claims()) == set(ids)
    assert set(strict.reasons()) <= {"rejected", "no_variance"}
    assert learn(strict.shop) == "idle"
    world.lessons()
    assert learn(world.shop) == "promoted"


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
    guarded.lessons()
    assert learn(guarded.shop) == "ended"
    (job,) = guarded.jobs()
    assert (job.status, job.verdict) == ("failed", "rejected")
    assert job.diagnosis is not None
    assert job.diagnosis["reason"] == reason
    assert set(bound.values()) & set(job.diagnosis.values()), "the diagnosis states the bound"
    assert guarded.serving().version == 0
    assert fingerprint(guarded.policy().model) == before


def test_numbers_that_are_none_keep_the_policy_and_leave_their_diagnosis(world: World) -> None:
    world.lessons()
    assert learn(world.shop) == "promoted"
    before = fingerprint(world.policy().model)
    overflowing = world.with_settings(kl_beta=1e300)  # float32 has no such number
    for broken, reasons in (
        (overflowing, {"loss_not_finite", "gradient_not_finite"}),
        (world.with_settings(learning_rate=1e30), {"policy_moved_too_far"}),
    ):
        broken.lessons()
        assert learn(broken.shop) == "ended"
        job = broken.jobs()[-1]
        assert (job.status, job.verdict) == ("failed", "rejected")
        assert job.diagnosis is not None
        assert job.diagnosis["reason"] in reasons
        assert job.diagnosis["advice"]
    assert world.serving().version == 1
    assert fingerprint(world.policy().model) == before
    world.lessons()
    assert learn(world.shop) == "promoted"


@pytest.mark.parametrize(("clip", "clipped"), [(0.0, True), (0.9, False)])
def test_the_clip_of_the_service_clips_answers_of_an_older_version(world: World, clip: float, clipped: bool) -> None:
    world = world.with_settings(clip_low=clip, clip_high=10 * clip, max_staleness=3)
    older = world.ask([f"w{index} w3" for index in range(8)], choices=4)
    world.lessons()
    assert learn(world.shop) == "promoted"
    world.grade(older)
    assert learn(world.shop) == "promoted"
    seen = world.jobs()[-1].metrics["update"]["objective"]
    assert seen["mean_ratio"] != pytest.approx(1.0, abs=1e-3), "the answers are of another policy"
    assert (seen["clip_fraction"] > 0.1) is clipped


def test_beta_holds_the_policy_near_the_first_checkpoint(world: World) -> None:
    world.lessons()
    assert learn(world.shop) == "promoted"
    drifts = {}
    for beta in (0.0, 100.0):
        world.with_settings(kl_beta=beta, gate_no_signal="hold", learning_rate=0.002).lessons()
        trial = world.with_settings(kl_beta=beta, gate_no_signal="hold", learning_rate=0.002)
        assert learn(trial.shop) == "held"
        assert (trial.jobs()[-1].metrics["update"]["objective"]["reference_kl"] > 0) is (beta > 0)
        with world.store.session() as session:
            made = checkpoints.by_version(session, checkpoints.next_version(session) - 1)
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
        shown.lessons()
        assert learn(shown.shop) == "promoted"
        assert (shown.settings.var_dir / "tensorboard").exists() == wish
    read = EventAccumulator(str(world.settings.var_dir / "tensorboard"))
    read.Reload()
    [loss], [mark] = read.Scalars("update/loss"), read.Scalars("heldout/value")
    assert (loss.step, mark.step, mark.value) == (2, 2, 1.0)
    told = world.jobs()[-1].metrics["update"]["loss"]
    assert loss.value == pytest.approx(told, rel=1e-5)  # the files hold float32


def test_an_mlflow_server_out_of_reach_does_not_stop_learning(world: World, caplog: pytest.LogCaptureFixture) -> None:
    unreachable = world.with_settings(mlflow_uri="nonsense://nowhere")
    unreachable.lessons()
    assert learn(unreachable.shop) == "promoted"
    assert "MLflow at nonsense://nowhere does not take records" in caplog.text


def test_the_gate_refuses_a_candidate_that_answers_worse_than_the_base(world: World, tmp_path: Path) -> None:
    world.lessons()
    assert learn(world.shop) == "promoted"
    held = write_heldout(tmp_path / "held.jsonl", [f"question {index}" for index in range(30)], NEVER_RIGHT)
    gated = world.with_settings(heldout=held)
    questions = read_evaluation_set(held, 30, gated.policy().tokenizer, gated.settings.heldout_sealed)
    plan = make_plan("long ago", questions.questions, [], 200, conditions_of(gated.settings))
    with gated.store.session() as session:  # on record: the base got everything right
        record_scores(session, checkpoints.by_version(session, 0), "base", Scores(plan, (1.0,) * 200))
    gated.lessons()
    assert learn(gated.shop) == "ended"
    job = gated.jobs()[-1]
    assert (job.status, job.verdict) == ("succeeded", "rejected")
    gate = job.metrics["gate"]
    assert (gate["decision"], gate["beside"]["base"]["version"]) == ("refuse", 0)
    assert gate["beside"]["base"]["difference"] == pytest.approx(-1.0)
    assert "against the base" in (job.error or "")
    assert gated.serving().version == 1
    assert not (gated.checkpoints_dir / "v00000002").exists()
    with gated.store.session() as session:
        serving = checkpoints.by_version(session, 1)
        assert [row.kind for row in evaluations.list_evaluations(session, checkpoint_id=serving.id)] == ["heldout"]


def test_every_look_asks_anew_and_keeps_what_it_asked(world: World, tmp_path: Path) -> None:
    held = write_heldout(tmp_path / "held.jsonl", [f"question {index}" for index in range(6)], ALWAYS_RIGHT)
    gated = world.with_settings(heldout=held)
    for _ in range(2):
        gated.lessons(groups=4)
        assert learn(gated.shop) == "promoted"
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
    chosen.lessons()
    assert learn(chosen.shop) == outcome
    gate = chosen.jobs()[0].metrics["gate"]
    assert gate["decision"] == ("pass" if policy == "promote" else "hold")
    assert "held-out prompts" in gate["words"]
    assert chosen.serving().version == version
    verify(chosen.checkpoints_dir / "v00000001")


def test_the_sealed_share_is_the_settings(world: World, tmp_path: Path) -> None:
    held = write_heldout(tmp_path / "held.jsonl", [f"question {index}" for index in range(60)], ALWAYS_RIGHT)
    none, half = (world.with_settings(heldout=held, heldout_sealed=share) for share in (0.0, 0.5))
    open_all, open_half = (questions(one.settings, world.policy()) for one in (none, half))
    assert open_all is not None
    assert open_half is not None
    assert (len(open_all.questions), len(open_all.sealed)) == (60, 0)
    assert 15 < len(open_half.sealed) == 60 - len(open_half.questions) < 45


def test_nobody_learns_from_a_held_out_prompt(world: World, tmp_path: Path) -> None:
    held = write_heldout(tmp_path / "held.jsonl", ["a secret question"], ALWAYS_RIGHT)
    gated = world.with_settings(heldout=held)
    secret = gated.grade(gated.ask(["a secret question", "A  secret QUESTION "], choices=4))
    gated.lessons()
    assert learn(gated.shop) == "promoted"
    claimed = gated.claims()
    assert {claimed[one] for one in secret} == {("skipped", "held_out")}
    assert gated.jobs()[0].metrics["skipped"]["held_out"] == 8


def test_answers_too_old_are_skipped_and_counted_once(world: World) -> None:
    fresh_only = world.with_settings(max_staleness=0)
    old = fresh_only.ask(["an old question"], choices=4)
    fresh_only.lessons()
    assert learn(fresh_only.shop) == "promoted"
    fresh_only.grade(old)
    fresh_only.lessons()
    assert learn(fresh_only.shop) == "promoted"
    assert fresh_only.jobs()[1].metrics["skipped"]["stale"] == 4
    assert {fresh_only.claims()[one] for one, _ in old} == {("skipped", "stale")}


def test_answers_of_a_version_that_was_rolled_back_are_not_learned_from(world: World) -> None:
    world.lessons()
    assert learn(world.shop) == "promoted"
    answers = world.grade(world.ask(["after the update"], choices=4))
    with world.store.session() as session:
        promotions.rollback(session, "someone")
    world.lessons()
    assert learn(world.shop) == "promoted"
    assert {world.claims()[one] for one in answers} == {("skipped", "rolled_back")}
    with world.store.session() as session:
        second = checkpoints.by_version(session, 2)
        assert second.parent_id == checkpoints.by_version(session, 0).id


def test_single_grades_learn_by_a_tracker_that_remembers(world: World) -> None:
    tracked = world.with_settings(baseline="tracker")
    for _ in range(2):
        tracked.grade(tracked.ask([f"alone {index}" for index in range(16)], task="sums"))
        assert learn(tracked.shop) == "promoted"
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
    assert learn(capped.shop) == "promoted"
    assert capped.jobs()[0].metrics["skipped"]["key_cap"] == 40 - flooded
    assert sum(capped.jobs()[0].metrics["keys"].values()) == 10 + flooded


def test_an_operators_cancel_gives_the_claims_back(world: World) -> None:
    ids = world.lessons()
    cancelling = threading.Thread(target=cancel_the_running_job, args=(world,))
    cancelling.start()
    outcome = learn(world.shop)
    cancelling.join()
    (job,) = world.jobs()
    assert (outcome, job.status) == ("ended", "cancelled")
    assert set(world.reasons()) <= {"no_variance"}
    assert world.serving().version == 0
    assert learn(world.shop) == "promoted"
    assert set(world.claims()) == set(ids)


def cancel_the_running_job(world: World) -> None:
    """Cancel a job as soon as one is seen."""
    end = time.monotonic() + 30
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
    batch = Batch(rollouts, [1.0, -1.0] * 4, [], [], {}, {}, {}, {})
    learner = Learner(policy.model, update_config(world.with_settings(micro_batch_tokens=64).settings))
    with world.store.session() as session:
        jobs.request(session, trigger="admin", requested_by="someone")
        job = jobs.start(session, "this worker")
        assert job is not None
        assert job.fence is not None
    asked = threading.Event()
    with Watch(asked.is_set, never, limit_s=60, every_s=0.001) as watch:
        asked.set()
        while not watch.asked_to_end():
            time.sleep(0.001)
        with Run(world.store, job.id, job.fence, watch) as run:
            update(run, learner, batch)
    assert world.jobs()[0].status == "cancelled"
    assert fingerprint(policy.model) == before


def never(phase: str, doing: str) -> None:
    raise AssertionError(f"{phase} overran: {doing}")


def test_a_worker_asked_to_stop_gives_back_what_it_was_learning_from(world: World) -> None:
    world.lessons()
    world.shop.stopping.set()
    assert learn(world.shop) == "ended"
    (job,) = world.jobs()
    assert (job.status, job.verdict) == ("failed", "stopped")
    assert world.claims() == {}
    world.shop.stopping.clear()
    assert learn(world.shop) == "promoted"


def test_a_job_that_was_taken_over_writes_nothing_more(world: World) -> None:
    with world.store.session() as session:
        jobs.request(session, trigger="admin", requested_by="someone")
        job = jobs.start(session, "worker one")
        assert job is not None
        assert job.fence is not None
    with world.store.session() as session:
        jobs.orphans(session)
    watch = Watch(lambda: False, lambda *_: None, limit_s=60)
    with Run(world.store, job.id, job.fence, watch) as run:
        run.enter("batch")
        raise AssertionError("a fenced job went on")
    with world.store.session() as session:
        after = jobs.get_job(session, job.id)
        assert (after.status, after.phase, after.error) == ("failed", "start", "worker lost")
        assert session.scalar(select(func.count()).select_from(JobEvent)) == 0


def test_data_that_fails_job_after_job_is_given_up(world: World) -> None:
    ids = world.lessons()
    broken = world.checkpoints_dir / "v00000000" / "model.safetensors"
    content = broken.read_bytes()
    broken.write_bytes(content[:-8])
    for attempt in range(MOST_FAILURES):
        assert world.claims() == {}, f"given up after {attempt} failures"
        with pytest.raises(ValueError, match="is not what was published"):
            learn(world.shop)
    assert {job.status for job in world.jobs()} == {"failed"}
    assert "BadCheckpoint" in (world.jobs()[0].error or "")
    assert world.reasons() == {"failed_jobs": len(ids)}


def test_old_checkpoints_leave_the_disk_and_those_that_matter_stay(world: World) -> None:
    few = world.with_settings(keep_checkpoints=2)
    for _ in range(4):
        few.lessons(groups=2)
        assert learn(few.shop) == "promoted"
    assert sorted(path.name for path in few.checkpoints_dir.iterdir()) == ["v00000000", "v00000003", "v00000004"]
    with few.store.session() as session:
        gone = [row.version for row in checkpoints.list_checkpoints(session) if row.metrics.get("deleted")]
        assert sorted(gone) == [1, 2]
        with pytest.raises(Conflict, match="deleted"):
            promotions.rollback(session, "someone", to=checkpoints.by_version(session, 1).id)


def test_files_of_a_killed_publisher_are_replaced(world: World) -> None:
    leftover = world.checkpoints_dir / "v00000001"
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    (world.checkpoints_dir / ".unfinished-v00000001-00000000").mkdir()
    world.lessons()
    assert learn(world.shop) == "promoted"
    verify(leftover)
    assert sorted(path.name for path in world.checkpoints_dir.iterdir()) == ["v00000000", "v00000001"]
