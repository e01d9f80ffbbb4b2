"""One key's share of a batch: held to whenever it can be, never burning and never blocking."""

import random
import time
from collections import Counter

import pytest

from app.store.key_quota import Group, choose, key_limit


def singles(**counts: int) -> list[Group]:
    return [Group(f"{key}{number}", key, 1) for key, count in counts.items() for number in range(count)]


def by_key(groups: list[Group]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for one in groups:
        counts[one.key] += one.size
    return counts


def naive_limit(counts: dict[str, int], share: float) -> int:
    """The definition, tried one by one."""
    met = [
        limit
        for limit in range(1, max(counts.values()) + 1)
        if limit <= share * sum(min(count, limit) for count in counts.values())
    ]
    return max(max(met, default=0), min(counts.values()))


def test_a_lone_key_has_no_limit() -> None:
    assert key_limit({"a": 500}, 0.1) == 500
    assert key_limit({}, 0.1) == 0
    assert by_key(choose(singles(a=500), 64, 0.1)) == {"a": 64}


def test_the_limit_is_what_its_definition_says() -> None:
    rng = random.Random(3)
    for _ in range(400):
        counts = {str(key): rng.randint(1, 60) for key in range(rng.randint(2, 7))}
        share = rng.choice([0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9, 1.0, rng.random()])
        assert key_limit(counts, share) == naive_limit(counts, share), (counts, share)


def test_the_limit_of_many_keys_with_many_answers_is_found_at_once() -> None:
    counts = {str(key): 1000 + key for key in range(2000)} | {"flood": 10_000_000}
    began = time.process_time()
    limit = key_limit(counts, 0.5)
    assert time.process_time() - began < 0.2
    assert limit == sum(range(1000, 3000)), "half of it is the flood's when it has as many as all others together"


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_no_key_has_more_than_its_share_of_a_batch(share: float) -> None:
    for groups in (singles(a=1000, b=40, c=3), singles(a=63, b=1), singles(a=5, b=5, c=5, d=5, e=5, f=500)):
        counts = by_key(choose(groups, 64, share))
        keys = len(by_key(groups))
        bound = max(share, 1 / keys) * sum(counts.values())
        assert all(count <= bound for count in counts.values()), (counts, share)


def test_a_flood_of_one_key_leaves_the_others_theirs() -> None:
    groups = [*singles(flood=10_000), *singles(a=20, b=30)]
    assert by_key(choose(groups, 512, 0.5)) == {"flood": 50, "a": 20, "b": 30}
    assert by_key(choose(groups, 64, 0.5)) == {"flood": 22, "a": 20, "b": 22}


def test_two_floods_leave_a_third_key_its_own() -> None:
    """In their order alone, the first two keys would fill every batch, and the others wait for ever."""
    assert by_key(choose(singles(a=1000, b=1000, c=1000, d=1000), 64, 0.5)) == {"a": 16, "b": 16, "c": 16, "d": 16}
    assert by_key(choose(singles(a=1000, b=1000, c=4), 64, 0.5)) == {"a": 30, "b": 30, "c": 4}
    many = {f"k{number}": 5 for number in range(100)}
    assert set(by_key(choose(singles(**many), 64, 0.5)).values()) == {1}


def test_what_the_share_leaves_out_fills_up_where_it_must() -> None:
    groups = singles(busy=63, other=1)
    assert by_key(choose(groups, 512, 0.5)) == {"busy": 1, "other": 1}
    filled = choose(groups, 512, 0.5, at_least=64)
    assert by_key(filled) == {"busy": 63, "other": 1}
    assert filled == groups, "in their order"
    assert by_key(choose(singles(busy=1000, other=4), 512, 0.5, at_least=64)) == {"busy": 60, "other": 4}


def test_groups_are_whole_and_the_first_may_be_larger_than_the_batch() -> None:
    groups = [Group("x", "a", 8), Group("y", "b", 3), Group("z", "a", 2)]
    assert choose(groups, 4, 0.5) == [groups[0]]
    assert choose(groups[1:], 4, 0.5) == [groups[1]]
    assert choose([], 4, 0.5) == []
    assert sum(one.size for one in choose([Group(str(n), "a", 3) for n in range(9)], 10, 0.5)) == 9


def test_those_in_front_come_first() -> None:
    groups = singles(a=10, b=10)
    assert choose(groups, 4, 0.5) == [*groups[:2], *groups[10:12]]


def test_choosing_again_and_again_takes_everything() -> None:
    """Nothing is burnt and nothing blocks: what was left out is taken later, whatever the sizes."""
    rng = random.Random(4)
    for _ in range(30):
        left = [Group(str(n), rng.choice("aaaaabc"), rng.randint(1, 9)) for n in range(rng.randint(1, 80))]
        for _ in range(200):
            taken = choose(left, 16, 0.5, at_least=rng.choice([0, 8]))
            assert bool(taken) == bool(left)
            left = [one for one in left if one not in taken]
        assert left == []
