"""One key's share of a batch: the bound holds, a lone key is free, and the cut cannot be chosen by flooding."""

import random
from collections import Counter

import pytest

from worker.share import cut, key_limit, usable


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.7])
def test_after_the_cut_no_key_holds_more_than_its_share(share: float) -> None:
    rng = random.Random(3)
    for _ in range(300):
        counts = {f"key{index}": rng.randrange(1, 200) for index in range(rng.randrange(2, 12))}
        keys = [key for key, count in counts.items() for _ in range(count)]
        kept, surplus = cut(keys, keys, list(range(len(keys))), share, rng)
        assert sorted(kept + surplus) == sorted(keys)
        largest = max(Counter(kept).values())
        assert largest <= max(share, 1 / len(counts)) * len(kept) + 1e-9
        assert len(kept) == usable(counts, share)


def test_the_limit_is_the_largest_that_holds() -> None:
    counts = {"flood": 1000, "a": 20, "b": 12}
    limit = key_limit(counts, 0.5)
    assert limit == 32
    assert limit + 1 > 0.5 * sum(min(count, limit + 1) for count in counts.values())


def test_a_lone_key_is_not_bounded() -> None:
    kept, surplus = cut(range(90), ["only"] * 90, list(range(90)), 0.1, random.Random(0))
    assert len(kept) == 90
    assert surplus == []


def test_answers_to_one_prompt_stay_together_as_far_as_the_limit_allows() -> None:
    keys = ["flood"] * 64 + ["other"] * 16
    groups = [index // 8 for index in range(80)]
    kept, _ = cut(list(range(80)), keys, groups, 0.5, random.Random(1))
    sizes = Counter(groups[item] for item in kept if keys[item] == "flood")
    assert sum(sizes.values()) == 16
    assert set(sizes.values()) == {8}


def test_which_of_a_keys_interactions_stay_depends_on_the_draw_and_not_on_their_order() -> None:
    keys = ["flood"] * 100 + ["other"] * 10
    firsts = {cut(list(range(110)), keys, list(range(110)), 0.5, random.Random(seed))[0][0] for seed in range(20)}
    assert len(firsts) > 5
