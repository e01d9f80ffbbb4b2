"""`lepo bench graders`, its quick form: each difference between our graders, theirs and a reader is a known one."""

from dataclasses import replace

import pytest

from benchmarks.graders.command import kinds_of
from benchmarks.graders.comparison import Case, compare
from benchmarks.graders.explained import CONSTANT, LAST_NUMBER, why
from benchmarks.graders.pairings import PAIRINGS, Pairing, variants
from training.tasks.gym import GymSource, make_problems


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return list(compare(PAIRINGS, 1, seed=5))


def test_every_difference_is_explained(cases: list[Case]) -> None:
    kinds = [*kinds_of(cases, ours=True), *kinds_of(cases, ours=False)]
    assert [kind for kind in kinds if kind["why"] is None] == []


def test_our_graders_say_what_a_reader_says_but_for_two_kinds(cases: list[Case]) -> None:
    assert {why(case, ours=True) for case in cases if case.ours_errs} == {LAST_NUMBER, CONSTANT}
    assert {case.grader for case in cases} == {"last_number", "math", "countdown", "string_check"}
    assert {case.dataset for case in cases} == {pairing.dataset for pairing in PAIRINGS}


def test_both_sides_have_right_and_wrong_answers_to_judge(cases: list[Case]) -> None:
    for pairing in PAIRINGS:
        judged = [case for case in cases if case.dataset == pairing.dataset]
        assert sum(case.right and case.ours == 1.0 for case in judged) >= 5
        assert sum(not case.right and case.ours == 0.0 for case in judged) >= 3
        assert any(case.theirs == 1.0 for case in judged)


def test_a_difference_nobody_knows_is_seen(cases: list[Case]) -> None:
    """The comparison can fail: a verdict turned round is a difference without a reason."""
    sound = next(case for case in cases if case.grader == "math" and not case.ours_errs and not case.theirs_errs)
    broken = replace(sound, ours=1.0 - float(sound.ours or 0))
    [kind] = kinds_of([broken], ours=True)
    assert (kind["why"], kind["cases"]) == (None, 1)
    assert kinds_of([sound], ours=True) == kinds_of([sound], ours=False) == []


def test_a_grader_that_does_not_fit_is_seen() -> None:
    """Lengths of words are no sums: where ours compares as text, spellings of a number are differences."""
    pairing = next(pairing for pairing in PAIRINGS if pairing.dataset == "spell_backward")
    [problem] = make_problems(GymSource("gcd", size=1))
    asked = Pairing("gcd", "number", pairing.ours)
    assert any(variant.name == "decimals" for variant in variants(problem, "number"))
    unknown = [case for case in compare([asked], 1) if case.ours_errs and why(case, ours=True) is None]
    assert "decimals" in {case.variant for case in unknown}
