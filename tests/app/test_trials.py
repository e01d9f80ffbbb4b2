"""What live grades must show before a policy on trial passes or goes: errors by chance, detection, deadlines."""

import random
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from app.settings import Settings
from app.store.trials import Kind, Trial, Value
from app.trials import after_gate, verdict, weigh

SHARE = 0.1
RUNS = 100


def settings(**changes: Any) -> Settings:
    return Settings.model_validate({"canary_share": SHARE, **changes})


def trial(kind: Kind = "canary") -> Trial:
    return Trial(kind, uuid4(), 8, uuid4(), 7, uuid4(), datetime(2026, 1, 1, tzinfo=UTC), 1.0)


def stream(seed: int, new: float, old: float, responses: int, share: float = SHARE) -> list[Value]:
    """Responses of two policies as they come, right with probability `new` and `old`."""
    draw = random.Random(seed)
    values = []
    for _ in range(responses):
        is_new = draw.random() < share
        values.append(Value(is_new, float(draw.random() < (new if is_new else old))))
    return values


def step(values: list[Value], kind: Kind = "canary", seconds: float = 1.0, **changes: Any) -> str | None:
    found = verdict(trial(kind), weigh(values, settings(**changes), seconds), settings(**changes))
    return None if found is None else found.step


def first_step(values: list[Value], every: int = 50, **changes: Any) -> tuple[int, str | None]:
    """Look again and again, as the worker does, until something happens: responses seen, and what."""
    for seen in range(every, len(values) + 1, every):
        if (what := step(values[:seen], **changes)) is not None:
            return seen, what
    return len(values), None


def test_an_equal_policy_is_rolled_back_at_most_as_often_as_is_allowed_however_often_it_is_looked_at() -> None:
    """Over 20 looks each; alpha is 5%, and 100 runs with a true 5% show more than 12 once in a thousand times."""
    ends = [first_step(stream(seed, 0.7, 0.7, 3000), every=150)[1] for seed in range(RUNS)]
    assert ends.count("roll_back") <= 12
    assert ends.count("roll_back") + ends.count("promote") + ends.count(None) == RUNS


def test_a_policy_that_lost_twenty_points_is_rolled_back_by_few_of_its_answers() -> None:
    ends = [first_step(stream(1000 + seed, 0.5, 0.7, 6000)) for seed in range(30)]
    assert {what for _, what in ends} == {"roll_back"}
    assert sorted(seen * SHARE for seen, _ in ends)[15] < 150, "half of them within 150 of its own responses"


def test_a_broken_policy_goes_before_it_has_enough_grades_to_pass() -> None:
    seen, what = first_step(stream(1, 0.0, 0.7, 6000), every=10)
    assert what == "roll_back"
    assert seen * SHARE < settings().trial_min_grades


def test_a_better_policy_is_promoted_before_the_deadline() -> None:
    ends = [first_step(stream(2000 + seed, 0.9, 0.7, 6000))[1] for seed in range(30)]
    assert ends == ["promote"] * 30


def test_to_pass_takes_enough_grades_and_to_fail_does_not() -> None:
    better = [value for _ in range(30) for value in (Value(False, 0.0), Value(True, 1.0))]
    worse = [Value(not one.new, one.reward) for one in better]
    assert step(better, trial_min_grades=31) is None
    assert step(better, trial_min_grades=30) == "promote"
    assert step(worse, trial_min_grades=31) == "roll_back"


def test_the_margin_decides_how_small_a_loss_has_to_be_shown_absent() -> None:
    values = stream(5, 0.7, 0.7, 4000)
    assert first_step(values, trial_margin=0.2)[0] < first_step(values, trial_margin=0.05)[0]


def test_a_smaller_alpha_wants_more_evidence() -> None:
    values = stream(6, 0.5, 0.7, 6000)
    assert first_step(values, trial_alpha=0.2, every=10)[0] < first_step(values, trial_alpha=0.001, every=10)[0]


@pytest.mark.parametrize("kind", ["shadow", "canary"])
def test_at_the_deadline_it_passes_with_enough_grades_and_no_loss_shown_and_expires_with_fewer(kind: Kind) -> None:
    equal = [value for _ in range(20) for value in (Value(False, 1.0), Value(True, 1.0))]
    passed = {"shadow": "canary", "canary": "promote"}[kind]
    few = {"trial_min_grades": 21, "canary_deadline": 60}
    assert step(equal, kind, 59, trial_min_grades=20, canary_deadline=60) is None
    assert step(equal, kind, 60, trial_min_grades=20, canary_deadline=60) == passed
    assert step(equal, kind, 60, **few) == "expire"
    assert step([], kind, 60, **few) == "expire"
    assert step([], kind, 59, **few) is None


def test_a_watch_rolls_back_or_does_nothing() -> None:
    better = [value for _ in range(200) for value in (Value(False, 0.0), Value(True, 1.0))]
    worse = [Value(not one.new, one.reward) for one in better]
    assert step(better, "watch", 1e9) is None
    assert step(worse, "watch") == "watched_back"
    assert step([], "watch", 1e9) is None


def test_a_shadow_leads_to_a_canary_where_there_is_one_and_a_worse_one_is_refused() -> None:
    better = [value for _ in range(100) for value in (Value(False, 0.0), Value(True, 1.0))]
    assert step(better, "shadow") == "canary"
    assert step(better, "shadow", canary_share=0) == "promote"
    assert step([Value(not one.new, one.reward) for one in better], "shadow") == "refuse"


def test_the_shares_say_what_a_candidate_goes_to_after_the_gate() -> None:
    assert after_gate(Settings()) == "promote"
    assert after_gate(settings()) == "canary"
    assert after_gate(settings(shadow_share=0.5)) == "shadow"
    assert after_gate(settings(shadow_share=0.5, canary_share=0)) == "shadow"


@pytest.mark.parametrize("mode", ["drain", "in_place"])
@pytest.mark.parametrize("share", ["canary_share", "shadow_share"])
def test_trials_are_refused_where_memory_holds_one_version(mode: str, share: str) -> None:
    with pytest.raises(ValidationError, match="LEPO_SWAP_MODE=two_versions"):
        Settings.model_validate({share: 0.1, "swap_mode": mode})


def test_a_range_of_rewards_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="reward_low"):
        Settings(reward_low=1.0, reward_high=1.0)


def test_the_figures_say_what_the_decision_rests_on() -> None:
    values = stream(3, 0.5, 0.7, 3000)
    found = weigh(values, settings(), 12.0)
    words = verdict(trial(), found, settings())
    assert words is not None
    assert words.words.startswith("canary: worse than version 7; mean reward 0.")
    shown = found.figures(0.05)
    assert shown["graded"] == sum(value.new for value in values)
    assert shown["graded_against"] == sum(not value.new for value in values)
    assert shown["low"] < shown["difference"] < shown["high"] < 0
