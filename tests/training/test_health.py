"""Each guard refuses what it is for, lets the rest pass, and leaves a diagnosis that is JSON."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from training.optimization.health import (
    HealthConfig,
    UpdateRejected,
    UpdateStopped,
    check_gradient,
    check_length,
    check_policy,
)

BOUNDS = HealthConfig(max_kl=0.1, min_entropy=0.05, explosion_norm=100.0, min_mean_tokens=2.0, max_mean_tokens=50.0)
NAN, INF = math.nan, math.inf
REFUSED: list[tuple[str, Callable[[HealthConfig], None]]] = [
    ("loss_not_finite", lambda bounds: check_gradient(NAN, 1.0, bounds)),
    ("loss_not_finite", lambda bounds: check_gradient(-INF, 1.0, bounds)),
    ("gradient_not_finite", lambda bounds: check_gradient(0.5, NAN, bounds)),
    ("gradient_not_finite", lambda bounds: check_gradient(0.5, INF, bounds)),
    ("gradient_exploded", lambda bounds: check_gradient(0.5, 100.1, bounds)),
    ("policy_moved_too_far", lambda bounds: check_policy(0.11, 1.0, bounds)),
    ("policy_moved_too_far", lambda bounds: check_policy(NAN, 1.0, bounds)),
    ("entropy_collapsed", lambda bounds: check_policy(0.0, 0.04, bounds)),
    ("entropy_collapsed", lambda bounds: check_policy(0.0, NAN, bounds)),
    ("length_out_of_bounds", lambda bounds: check_length(1.9, bounds)),
    ("length_out_of_bounds", lambda bounds: check_length(50.1, bounds)),
]


@pytest.mark.parametrize(("reason", "check"), REFUSED)
def test_a_guard_refuses_with_a_diagnosis(reason: str, check: Callable[[HealthConfig], None]) -> None:
    with pytest.raises(UpdateRejected) as caught:
        check(BOUNDS)
    assert caught.value.diagnosis["reason"] == reason
    assert str(caught.value.diagnosis["advice"]) in str(caught.value)
    assert json.loads(json.dumps(caught.value.diagnosis, allow_nan=False)) == caught.value.diagnosis
    assert isinstance(caught.value, UpdateStopped)


def test_at_the_bounds_an_update_stands() -> None:
    check_gradient(-3.0, 100.0, BOUNDS)
    check_policy(0.1, 0.05, BOUNDS)
    check_length(2.0, BOUNDS)
    check_length(50.0, BOUNDS)


def test_by_default_only_kl_and_norm_are_bounded() -> None:
    check_policy(0.5, 0.0, HealthConfig())
    check_length(0.0, HealthConfig())
    check_length(1e9, HealthConfig())


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_kl": 0.0},
        {"explosion_norm": -1.0},
        {"min_entropy": -0.1},
        {"max_kl": NAN},
        {"min_mean_tokens": 3.0, "max_mean_tokens": 2.0},
    ],
)
def test_bounds_out_of_range_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HealthConfig(**wrong)
