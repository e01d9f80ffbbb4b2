"""Which cells there are, choosing some, and going on where a bench was ended."""

import json
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
import pytest

from benchmarks.learning.command import REAL_PRESETS, plan_of, selected
from benchmarks.learning.methods import REAL, Method
from benchmarks.learning.real.budget import Budget
from benchmarks.learning.real.cells import Plan, work
from benchmarks.learning.real.families import FAMILIES, Family, last_number
from tests.benchmarks.learning.real.letters import cache_of, plan
from training.graders.gym import installed
from training.tasks.splits import Split


def test_a_part_is_chosen_by_name(base: Path) -> None:
    whole = plan(base, "grpo", "lepo")
    part = selected(whole, {"methods": "lepo", "families": "other, one", "seeds": "2"})
    assert [(one.method.name, one.family.name, one.seed) for one in part.cells() if not one.of_base] == [
        ("lepo", "other", 2),
        ("lepo", "one", 2),
    ]
    assert selected(whole, dict.fromkeys(("methods", "families", "seeds"))) == whole
    with pytest.raises(click.UsageError, match="--methods: no grpa; choose from grpo, lepo"):
        selected(whole, {"methods": "grpa"})
    with pytest.raises(click.UsageError, match="--seeds: no 3; choose from 1, 2"):
        selected(whole, {"seeds": "1,3"})


def test_cells_are_run_seed_by_seed_behind_the_exams_of_the_base(base: Path) -> None:
    cells = plan(base, "grpo", "lepo", "lepo_noise_only").cells()
    assert [one.seed for one in cells] == [0] * 4 + [1] * 6 + [2] * 6  # two inferences on two families
    real = plan_of("smollm2", "real")
    assert {one.method.name for one in real.cells() if not one.of_base} == set(REAL)


def changed(record: Any, name: str) -> Any:
    value = getattr(record, name)
    if isinstance(value, str):
        return replace(record, **{name: f"{value} other"})
    return replace(record, **{name: (*value, "another") if isinstance(value, tuple) else value + 1})


def settings() -> list[tuple[Callable[[Plan], Any], Callable[[Plan, Any], Plan], str]]:
    """Give every setting of a cell: how to find its record, how to put another one, and its name."""
    found: list[Any] = [(lambda p: p.methods[0], lambda p, r: replace(p, methods=(r,)), f.name) for f in fields(Method)]
    found += [(lambda p: p.families[0], lambda p, r: replace(p, families=(r,)), f.name) for f in fields(Family)]
    return found + [(lambda p: p.budget, lambda p, r: replace(p, budget=r), f.name) for f in fields(Budget)]


def test_a_file_is_named_by_every_setting_and_by_the_weights(base: Path, tmp_path: Path) -> None:
    made = replace(plan(base, "lepo", seeds=(1,)), families=(FAMILIES["products"],))
    cache = cache_of(tmp_path, made)
    names = [cache.file(made.cells()[-1])]
    for find, put, name in settings():
        names.append(cache.file(put(made, changed(find(made), name)).cells()[-1]))
    names.append(cache.file(replace(made, seeds=(2,)).cells()[-1]))
    names.append(cache.file(replace(made, base="another").cells()[-1]))
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    names.append(cache_of(tmp_path, replace(made, base=str(tmp_path))).file(made.cells()[-1]))
    assert len(set(names)) == len(names) > 20


def test_a_bench_that_was_ended_in_the_middle_goes_on(base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    made = plan(base, "grpo", seeds=(1,))
    cache, cells = cache_of(tmp_path, made), made.cells()
    first, later = cells[0], cells[-1]
    work(first, cache.file(first))
    kept = cache.file(first).read_bytes()
    parents = iter([1, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents, 2))  # whoever started it dies after the first update
    with pytest.raises(SystemExit, match="to be run anew"):
        work(later, cache.file(later))
    assert cache.missing(cells) == cells[1:]
    assert cache.result(later) is None
    monkeypatch.undo()
    work(later, cache.file(later))
    assert cache.missing(cells) == cells[1:-1]
    assert len(json.loads(cache.file(later).read_text())["updates"]) == 2
    assert cache.file(first).read_bytes() == kept
    assert sorted(one.suffix for one in tmp_path.iterdir()) == [".json", ".json"]


@pytest.mark.skipif(not installed(), reason="reasoning-gym is not here: pip install 'lepo-service[gym]'")
@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_there_are_problems_enough_and_none_is_in_two_splits(family: Family) -> None:
    size = REAL_PRESETS["real"]
    learned = family.problems(Split.TRAIN, size.updates * size.problems, 1)
    asked = family.problems(Split.TEST, size.test, 0)
    assert len({one.prompt for one in learned}) == size.updates * size.problems
    assert len({one.prompt for one in asked}) == size.test
    assert not {one.prompt for one in learned} & {one.prompt for one in asked}
    assert learned == family.problems(Split.TRAIN, size.updates * size.problems, 1)
    assert learned != family.problems(Split.TRAIN, size.updates * size.problems, 2)
    assert learned[0].grader == last_number(learned[0].answer)
