"""The controller of trials on a real Postgres: what it does to policies, their answers and learning, and when.

Checkpoints are rows without files here, and answers are written with their grades, right as often as a test wants.
"""

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import insert, text, update

from app import trials
from app.identifiers import uuid7
from app.settings import Settings
from app.store import checkpoints, claims, jobs, learning, policy_life
from app.store.connect import Store
from app.store.grades import Entry, add_grade
from app.store.policy_life import Event
from app.store.tables import Checkpoint, Claim, Grade, Interaction, Transition
from tests.conftest import answer
from worker import trial
from worker.gate.comparison import decision_of
from worker.gate.look import no_questions
from worker.trial import TrialClock, look

NOWHERE = "redis+socket:///nowhere"


@dataclass
class Bench:
    """Two policies, one serving, and a way to have them answer and be graded."""

    store: Store
    serving: Checkpoint
    draw: random.Random

    def settings(self, **changes: Any) -> Settings:
        return Settings.model_validate({"canary_share": 0.1, "group_grace": 0, "trial_min_grades": 20, **changes})

    def publish(self, parent: Checkpoint, job_id: UUID | None = None) -> Checkpoint:
        with self.store.session() as session:
            return checkpoints.publish(
                session, path="/nowhere", digest=uuid4().hex * 2, parent_id=parent.id, job_id=job_id
            )

    def candidate(self, event: Event | None = "canary", job_id: UUID | None = None) -> Checkpoint:
        row = self.publish(self.serving, job_id)
        if event is not None:
            self.move(row, event)
        return row

    def move(self, row: Checkpoint, event: Event) -> None:
        with self.store.session() as session:
            policy_life.move(session, row.id, event, "test", "test")

    def promote(self, row: Checkpoint) -> None:
        with self.store.session() as session:
            policy_life.promote(session, row.id, "test", "test")

    def answered(
        self, row: Checkpoint, rewards: Sequence[float], *, n: int = 1, kind: str = "client", shadow_of: Any = None
    ) -> list[str]:
        """Write graded answers, `n` choices a response; returns the responses."""
        interactions, grades, names = [], [], []
        for place in range(0, len(rewards), n):
            name = f"chatcmpl-{uuid4().hex}"
            names.append(name)
            for choice, reward in enumerate(rewards[place : place + n]):
                one = answer(row, name, choice, n) | {"id": uuid7(), "graded_at": text("clock_timestamp()")}
                if shadow_of is not None:
                    one |= {"shadow_of": shadow_of[place], "learnable": False, "unlearnable_reason": "shadow"}
                interactions.append(one)
                grades.append(
                    {
                        "id": uuid7(),
                        "interaction_id": one["id"],
                        "state": "graded",
                        "value": reward,
                        "grader_kind": kind,
                        "grader_id": "someone",
                    }
                )
        with self.store.session() as session:
            for one in interactions:
                session.add(Interaction(**one))
            session.flush()
            session.execute(insert(Grade), grades)
        return names

    def both(self, new: Checkpoint, rate: float, against: float, responses: int, share: float = 0.3) -> None:
        """Have both policies answer, mixed; each right as often as is said."""
        for _ in range(responses):
            is_new = self.draw.random() < share
            right = float(self.draw.random() < (rate if is_new else against))
            self.answered(new if is_new else self.serving, [right])

    def state(self, row: Checkpoint) -> str:
        with self.store.session() as session:
            return checkpoints.get_checkpoint(session, row.id).state

    def last(self, row: Checkpoint) -> Transition:
        with self.store.session() as session:
            return policy_life.history(session, checkpoint_id=row.id)[0]

    def later(self, seconds: float) -> None:
        """Let time pass, by the database's clock: all that happened is so much longer ago."""
        ago = text(f"created_at - interval '{seconds} seconds'")
        with self.store.session() as session:
            session.execute(update(Transition).values(created_at=ago))
            session.execute(update(Grade).values(created_at=ago))
            graded = text(f"graded_at - interval '{seconds} seconds'")
            session.execute(update(Interaction).values(created_at=ago, graded_at=graded))


@pytest.fixture
def bench(store: Store, base_checkpoint: Checkpoint) -> Bench:
    return Bench(store, base_checkpoint, random.Random(3))


@pytest.mark.parametrize(
    ("canary", "shadow", "fate"), [(0.1, 0.0, "canary"), (0.1, 0.2, "shadow"), (0.0, 0.0, "promote")]
)
def test_a_candidate_that_passes_the_gate_goes_where_the_shares_say(canary: float, shadow: float, fate: str) -> None:
    settings = Settings(canary_share=canary, shadow_share=shadow, gate_no_signal="promote")
    assert decision_of(no_questions(settings), settings).fate == fate


def test_a_worse_canary_is_rolled_back_and_its_figures_stand_on_the_move(bench: Bench) -> None:
    settings = bench.settings()
    canary = bench.candidate()
    assert look(bench.store, settings, NOWHERE) == []
    bench.both(canary, 0.1, 0.9, 150)
    (words,) = look(bench.store, settings, NOWHERE)
    assert words.startswith("canary: worse than version 0; mean reward 0.")
    assert (bench.state(canary), bench.state(bench.serving)) == ("rolled_back", "serving")
    move = bench.last(canary)
    assert (move.event, move.actor, move.reason) == ("roll_back", "trial", words)
    assert move.figures["decision"] == "worse"
    assert move.figures["against"] == 0
    assert move.figures["graded"] + move.figures["graded_against"] == 150
    assert move.figures["high"] < 0
    with bench.store.session() as session:
        control = learning.read(session)
        assert (control.refusals, control.rate_scale, control.frozen_at) == (1, 0.5, None)
    assert look(bench.store, settings, NOWHERE) == []


def test_a_better_canary_is_promoted_and_learning_is_bold_again(bench: Bench) -> None:
    canary = bench.candidate()
    with bench.store.session() as session:
        learning.back_off(session, freeze_after=9)
    bench.both(canary, 0.95, 0.3, 200)
    (words,) = look(bench.store, bench.settings(), NOWHERE)
    assert words.startswith("canary: not worse than version 0 by 0.05 or more")
    assert (bench.state(canary), bench.state(bench.serving)) == ("serving", "retired")
    assert bench.last(canary).figures["pairs"] > 20
    with bench.store.session() as session:
        assert (learning.read(session).refusals, learning.read(session).batch_scale) == (0, 1.0)


def test_what_was_answered_before_the_trial_or_never_graded_does_not_count(bench: Bench) -> None:
    canary = bench.candidate(None)
    bench.both(canary, 0.0, 1.0, 100)
    bench.move(canary, "canary")
    with bench.store.session() as session:
        for row in (canary, bench.serving):
            session.add(Interaction(**answer(row, f"chatcmpl-{uuid4().hex}", 0, 1) | {"id": uuid7()}))
    assert look(bench.store, bench.settings(), NOWHERE) == []
    with bench.store.session() as session:
        ((_, found),) = trials.under_way(session, bench.settings())
    assert (found.rewards, found.rewards_against) == ((), ())


def test_the_choices_of_a_response_are_one_value_once_all_are_graded_or_some_for_a_while(bench: Bench) -> None:
    canary = bench.candidate()
    bench.answered(canary, [1.0, 0.0, 0.0, 1.0], n=2)
    bench.answered(bench.serving, [1.0])
    with bench.store.session() as session:
        one = answer(canary, "chatcmpl-half", 0, 2) | {"id": uuid7(), "graded_at": text("clock_timestamp()")}
        session.add(Interaction(**one))
        add_grade(session, one["id"], Entry("client", "someone", value=1.0))

    def rewards(grace: float) -> tuple[float, ...]:
        settings = bench.settings(group_grace=grace)
        with bench.store.session() as session:
            return trials.under_way(session, settings)[0][1].rewards

    assert rewards(600) == (0.5, 0.5)
    assert rewards(0) == (0.5, 0.5, 1.0)


def test_only_the_graders_that_are_wanted_count_and_rewards_are_brought_into_their_range(bench: Bench) -> None:
    canary = bench.candidate()
    with bench.store.session() as session:
        session.execute(
            text("INSERT INTO api_keys (id, name, secret_sha256, scopes) VALUES ('kkk', 'k', 'x', '{grade}')")
        )
        one = answer(canary, "chatcmpl-both", 0, 1) | {"id": uuid7()}
        session.add(Interaction(**one))
        add_grade(session, one["id"], Entry("client", "kkk", value=7.0, api_key_id="kkk"))
        add_grade(session, one["id"], Entry("string_check", "string_check", value=0.0))

    def seen(**changes: Any) -> tuple[float, ...]:
        with bench.store.session() as session:
            return trials.under_way(session, bench.settings(**changes))[0][1].rewards

    assert seen() == (0.5,)
    assert seen(trial_graders="keys") == (1.0,)
    assert seen(trial_graders="server") == (0.0,)
    assert seen(trial_graders="keys", reward_high=10.0) == (0.7,)
    assert seen(trial_graders="server", reward_low=-1.0) == (0.5,)


def test_the_deadline_promotes_with_enough_grades_and_gives_answers_back_without(bench: Bench) -> None:
    settings = bench.settings(canary_deadline=100)
    first = bench.candidate()
    bench.both(first, 1.0, 1.0, 100)
    bench.later(90)
    assert look(bench.store, settings, NOWHERE) == []
    bench.later(20)
    (words,) = look(bench.store, settings, NOWHERE)
    assert words.startswith("canary: its time is over, and no loss against version 0 was shown")
    assert bench.state(first) == "serving"
    bench.serving = first
    job_id, held = job_with_claim(bench)
    second = bench.candidate(job_id=job_id)
    bench.answered(second, [1.0] * 19)
    bench.later(101)
    (words,) = look(bench.store, settings, NOWHERE)
    assert words.startswith("canary: its time is over with 19 of 20 graded responses")
    assert (bench.state(second), bench.last(second).event) == ("rolled_back", "expire")
    with bench.store.session() as session:
        assert session.get(Claim, held) is None, "nothing was shown against the answers: they are fresh again"
        row = session.get(Interaction, held)
        assert row is not None
        assert (row.claimed, row.refusals) == (False, 0)
        assert learning.read(session).refusals == 0


def job_with_claim(bench: Bench) -> tuple[UUID, UUID]:
    """A job that made a candidate, with one answer it claimed."""
    with bench.store.session() as session:
        one = answer(bench.serving, f"chatcmpl-{uuid4().hex}", 0, 1) | {"id": uuid7()}
        session.add(Interaction(**one))
        job = jobs.request(session, trigger="admin", requested_by="test")
        started = jobs.start(session, "test", jobs_lease())
        assert started is not None
        assert started.fence is not None
        claims.write(session, job.id, [one["id"]])
        jobs.finish(session, job.id, started.fence, "succeeded", "keep", verdict="canary")
    return job.id, one["id"]


def jobs_lease() -> Any:
    from datetime import timedelta

    return timedelta(seconds=60)


def test_a_shadow_is_compared_prompt_by_prompt_and_goes_on_to_canary_or_is_refused(bench: Bench) -> None:
    settings = bench.settings(shadow_share=0.5)
    good = bench.candidate("shadow")
    shown = bench.answered(bench.serving, [0.0] * 60)
    bench.answered(good, [1.0] * 60, shadow_of=shown)
    (words,) = look(bench.store, settings, NOWHERE)
    assert words.startswith("shadow: not worse than version 0 by 0.05 or more")
    assert bench.state(good) == "canary"
    bench.move(good, "discard")

    bad = bench.candidate("shadow")
    shown = bench.answered(bench.serving, [1.0] * 60)
    bench.answered(bad, [0.0] * 60, shadow_of=shown)
    (words,) = look(bench.store, settings, NOWHERE)
    assert words.startswith("shadow: worse than version 0")
    assert (bench.state(bad), bench.last(bad).event) == ("refused", "refuse")

    best = bench.candidate("shadow")
    shown = bench.answered(bench.serving, [0.0] * 60)
    bench.answered(best, [1.0] * 60, shadow_of=shown)
    look(bench.store, bench.settings(shadow_share=0.5, canary_share=0), NOWHERE)
    assert bench.state(best) == "serving"


def test_shadow_answers_count_for_no_other_trial(bench: Bench) -> None:
    canary = bench.candidate()
    shown = bench.answered(bench.serving, [1.0] * 30)
    bench.answered(canary, [0.0] * 30, shadow_of=shown)
    with bench.store.session() as session:
        ((_, found),) = trials.under_way(session, bench.settings())
    assert found.rewards == ()


def promoted_after_the_good(bench: Bench) -> Checkpoint:
    """A policy that serves after another whose answers were mostly right."""
    bench.answered(bench.serving, [1.0] * 90 + [0.0] * 10)
    new = bench.candidate(None)
    bench.promote(new)
    return new


def test_a_watch_rolls_back_what_does_worse_than_its_predecessor_and_freezes(bench: Bench) -> None:
    new = promoted_after_the_good(bench)
    bench.answered(new, [0.0] * 60)
    assert look(bench.store, bench.settings(), NOWHERE) == [], "LEPO_WATCH_SECONDS is 0"
    (words,) = look(bench.store, bench.settings(watch_seconds=600), NOWHERE)
    assert words.startswith("watch: worse than version 0")
    assert (bench.state(new), bench.state(bench.serving)) == ("rolled_back", "serving")
    with bench.store.session() as session:
        moves = policy_life.history(session, checkpoint_id=bench.serving.id)
    move = next(one for one in moves if one.to_state != one.from_state)  # above it stands the freeze
    assert move.actor == "watch"
    assert move.figures["decision"] == "worse"
    with bench.store.session() as session:
        control = learning.read(session)
        assert control.frozen_by == "watch"
    # What serves now took the place of a policy that was rolled back: there is nothing to go back to.
    bench.answered(bench.serving, [0.0] * 60)
    assert look(bench.store, bench.settings(watch_seconds=600), NOWHERE) == []


def test_a_watch_ends_with_its_time(bench: Bench) -> None:
    new = promoted_after_the_good(bench)
    bench.later(601)
    bench.answered(new, [0.0] * 60)
    assert look(bench.store, bench.settings(watch_seconds=600), NOWHERE) == []
    assert len(look(bench.store, bench.settings(watch_seconds=700), NOWHERE)) == 1


def test_a_watch_lets_an_equal_policy_alone(bench: Bench) -> None:
    new = promoted_after_the_good(bench)
    bench.answered(new, [0.0, *[1.0] * 9] * 10)
    assert look(bench.store, bench.settings(watch_seconds=600), NOWHERE) == []
    assert bench.state(new) == "serving"


def test_what_is_pinned_stays_and_a_frozen_trial_goes_on(bench: Bench) -> None:
    with bench.store.session() as session:
        learning.pin(session, "someone", "a quiet weekend")
        learning.freeze(session, "someone", "a quiet weekend")
    canary = bench.candidate()
    bench.both(canary, 0.95, 0.3, 200)
    assert look(bench.store, bench.settings(), NOWHERE) == []
    assert bench.state(canary) == "canary"
    with bench.store.session() as session:
        learning.unpin(session, "someone")
    assert len(look(bench.store, bench.settings(), NOWHERE)) == 1
    assert bench.state(canary) == "serving"


def in_between(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let something happen after a verdict and before its move."""
    act_on = trial.act_on

    def late(*given: Any) -> bool:
        act()
        return act_on(*given)

    monkeypatch.setattr(trial, "act_on", late)


def test_an_operators_rollback_in_between_stands(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bench.candidate(None)
    bench.promote(first)
    base, bench.serving = bench.serving, first
    canary = bench.candidate()
    bench.both(canary, 0.95, 0.3, 200)

    def roll_back() -> None:
        with bench.store.session() as session:
            policy_life.rollback(session, "operator")

    in_between(monkeypatch, roll_back)
    assert look(bench.store, bench.settings(), NOWHERE) == []
    assert [bench.state(row) for row in (base, first, canary)] == ["serving", "rolled_back", "refused"]


def test_another_promotion_in_between_starts_the_comparison_anew(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    canary, other = bench.candidate(), bench.candidate("hold")
    bench.both(canary, 0.95, 0.3, 200)
    in_between(monkeypatch, lambda: bench.promote(other))
    assert look(bench.store, bench.settings(), NOWHERE) == []
    assert [bench.state(row) for row in (canary, other)] == ["canary", "serving"]
    with bench.store.session() as session:
        ((one, found),) = trials.under_way(session, bench.settings())
    assert (one.against_version, found.rewards) == (other.version, ())


def test_of_many_controllers_at_once_one_makes_the_move(bench: Bench) -> None:
    canary = bench.candidate()
    bench.both(canary, 0.1, 0.9, 150)
    together = threading.Barrier(4)

    def one() -> list[str]:
        together.wait()
        return look(bench.store, bench.settings(), NOWHERE)

    with ThreadPoolExecutor(4) as pool:
        done = [future.result() for future in [pool.submit(one) for _ in range(4)]]
    assert sorted(map(len, done)) == [0, 0, 0, 1]
    with bench.store.session() as session:
        events = [move.event for move in policy_life.history(session, checkpoint_id=canary.id)]
        assert events == ["roll_back", "canary"]
        assert learning.read(session).refusals == 1


def test_the_clock_looks_at_its_interval_and_survives_a_look_that_fails(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Semaphore(0)

    def fails(*_: object) -> list[str]:
        looked.release()
        raise RuntimeError("a look that fails")

    monkeypatch.setattr(trial, "look", fails)
    with TrialClock(bench.store, bench.settings(trial_interval=0.02), NOWHERE):
        assert all(looked.acquire(timeout=10) for _ in range(3))
    with TrialClock(bench.store, bench.settings(trial_interval=600), NOWHERE):
        assert not looked.acquire(timeout=0.2)


def test_a_look_that_decides_nothing_writes_nothing(bench: Bench) -> None:
    canary = bench.candidate()
    bench.both(canary, 0.7, 0.7, 30)

    def written() -> int:
        with bench.store.session() as session:
            session.execute(text("SELECT pg_stat_force_next_flush()"))
        with bench.store.session() as session:
            query = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables"
            return int(session.execute(text(query)).scalar_one())

    before = written()
    for _ in range(5):
        assert look(bench.store, bench.settings(watch_seconds=600), NOWHERE) == []
    assert written() == before
