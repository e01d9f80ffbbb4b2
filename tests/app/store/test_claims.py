"""Claims: at most once, whole groups, four ends and nothing lost, with sessions that really run at the same time."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import UUID

import pytest
from sqlalchemy import delete, select, text
from sqlalchemy.exc import IntegrityError

from app.store import claims, grades, jobs, learnable
from app.store.claims import Settlement, Skipped
from app.store.connect import Store
from app.store.grades import Entry
from app.store.tables import Claim, Interaction, Job, StoredRollout
from tests.app.store.acts import books_agree, fresh, grade, improve, names, outcomes, settings, started, take
from tests.conftest import Answers


@pytest.fixture
def job(store: Store) -> Job:
    return started(store)[0]


def test_two_that_claim_at_once_never_overlap(store: Store, answers: Answers, job: Job) -> None:
    for _ in range(40):
        grade(store, *answers(2))
    start = Barrier(4)
    wish = settings(max_grades=6)

    def claim_until_empty(_: int) -> list[UUID]:
        start.wait()
        mine: list[UUID] = []
        while True:
            with store.session() as session:
                outlook = learnable.offer(session, wish, anything=True)
                taken = claims.claim(session, job.id, outlook.groups)
                session.execute(text("SELECT pg_sleep(0.01)"))
            if not taken and outlook.words is not None:
                return mine
            mine += [item.interaction.id for item in taken]

    with ThreadPoolExecutor(4) as pool:
        taken = [one for part in pool.map(claim_until_empty, range(4)) for one in part]
    assert len(taken) == len(set(taken)) == 80
    assert books_agree(store)


def test_a_second_claim_cannot_exist(store: Store, answers: Answers, job: Job) -> None:
    [one] = answers()
    grade(store, one)
    assert names(take(store, job, [one])) == {one}
    assert take(store, job, [one]) == [], "what is claimed is not fresh"
    with pytest.raises(IntegrityError, match="pk_claims"), store.session() as session:
        claims.write(session, job.id, [one])


def test_what_is_held_elsewhere_is_left_out_with_its_group(store: Store, answers: Answers, job: Job) -> None:
    held, free = answers(3), answers(3)
    grade(store, *held, *free)
    with store.session() as other:
        other.execute(select(Interaction).where(Interaction.id == held[1]).with_for_update())
        assert names(take(store, job, [*held, *free])) == set(free)
    assert names(take(store, job, held)) == set(held)


def test_what_lost_its_grade_since_it_was_offered_is_left_out_with_its_group(
    store: Store, answers: Answers, job: Job
) -> None:
    group, other = answers(2), answers(2)
    grade(store, *group, *other)
    with store.session() as session:
        grades.retract(session, group[0], Entry("client", "a", state="retracted"))
    assert names(take(store, job, [*group, *other])) == set(other)
    assert fresh(store) == {group[1]}


def test_ungraded_failed_and_unlearnable_are_never_claimed(store: Store, answers: Answers, job: Job) -> None:
    [ungraded], [failed] = answers(), answers()
    [unlearnable] = answers(learnable=False, unlearnable_reason="cancelled")
    with store.session() as session:
        grades.add_grade(session, failed, Entry("math", "m", state="failed"))
    grade(store, unlearnable)
    assert take(store, job, [ungraded, failed, unlearnable]) == []
    assert fresh(store) == set()


def test_a_claim_carries_reward_rollout_and_who_graded(store: Store, answers: Answers, job: Job) -> None:
    [one] = answers()
    grade(store, one, value=0.25)
    with store.session() as session:
        grades.add_grade(session, one, Entry("math", "m", value=0.75))
    [item] = take(store, job, [one])
    assert item.reward is not None
    assert (item.reward.value, item.reward.graders) == (0.5, 2)
    assert (item.codec, item.payload, item.grader_keys) == (1, b"\x00\x01", frozenset())


def test_an_answer_whose_rollout_is_gone_is_skipped_and_says_so(store: Store, answers: Answers, job: Job) -> None:
    kept, gone = answers(2)
    grade(store, kept, gone)
    with store.session() as session:
        session.execute(delete(StoredRollout).where(StoredRollout.interaction_id == gone))
    assert names(take(store, job, [kept, gone])) == {kept}
    assert outcomes(store, job) == {"claimed": 1, "skipped:no_rollout": 1}


def test_skipping_keeps_the_figure_it_rests_on_and_measuring_those_of_the_others(
    store: Store, answers: Answers, job: Job
) -> None:
    near, far = answers(2)
    grade(store, near, far)
    take(store, job, [near, far])
    with store.session() as session:
        claims.measured(session, job.id, {near: (0.01, 0.98), far: (2.5, 0.2)})
        claims.skip(session, job.id, {far: Skipped("diverged", 2.5)})
    with store.session() as session:
        rows = {row.interaction_id: row for row in session.scalars(select(Claim))}
    assert (rows[near].outcome, rows[near].divergence, rows[near].weight) == ("claimed", 0.01, 0.98)
    assert (rows[far].outcome, rows[far].reason, rows[far].divergence) == ("skipped", "diverged", 2.5)


def test_more_answers_than_a_statement_has_parameters(store: Store, answers: Answers, job: Job) -> None:
    """A list in SQL would end at 65,535 parameters: ids travel as one array."""
    [one] = answers()
    many = {UUID(int=number): Skipped("diverged", 1.0) for number in range(70_000)}
    grade(store, one)
    take(store, job, [one])
    with store.session() as session:
        claims.skip(session, job.id, many)
        claims.measured(session, job.id, dict.fromkeys(many, (1.0, 1.0)))
        assert claims.give_back(session, job.id, [*many, one]) == 1
        assert claims.claim(session, job.id, {"x": list(many)}) == []


@pytest.mark.parametrize(
    ("settlement", "left", "free"),
    [
        ("learn", {"learned": 1, "skipped:corrupt": 1}, False),
        ("release", {"skipped:corrupt": 1}, True),
        ("refuse", {"skipped:corrupt": 1}, True),
        ("keep", {"claimed": 1, "skipped:corrupt": 1}, False),
    ],
)
def test_the_ends_of_a_claim(
    store: Store, answers: Answers, settlement: Settlement, left: dict[str, int], free: bool
) -> None:
    job, fence = started(store)
    one, two = answers(2)
    grade(store, one, two)
    take(store, job, [one, two])
    with store.session() as session:
        claims.skip(session, job.id, {two: Skipped("corrupt")})
        jobs.finish(session, job.id, fence, "succeeded", settlement)
    assert outcomes(store, job) == left
    assert fresh(store) == ({one} if free else set())
    assert books_agree(store)
    with store.session() as session:
        assert claims.settle(session, job.id, "learn") == (settlement == "keep"), "an end is an end"


def test_the_first_refusal_gives_back_and_the_second_spends(store: Store, answers: Answers) -> None:
    [old], [new] = answers(), answers()
    grade(store, old)
    _, first = improve(store, [old], "refuse")
    assert outcomes(store, first) == {}
    assert fresh(store) == {old}
    grade(store, new)
    _, second = improve(store, [old, new], "refuse")
    assert outcomes(store, second) == {"skipped:refused": 1}
    assert fresh(store) == {new}, "its first refusal"
    assert books_agree(store)


def test_giving_back_is_no_refusal(store: Store, answers: Answers) -> None:
    [one] = answers()
    grade(store, one)
    for _ in range(4):
        improve(store, [one], "discard")
        assert fresh(store) == {one}


def test_concurrent_graders_and_claimers_lose_nothing(store: Store, answers: Answers, job: Job) -> None:
    everything = [one for _ in range(20) for one in answers(2)]
    taken: list[UUID] = []

    def claim_some() -> None:
        with store.session() as session:
            outlook = learnable.offer(session, settings(max_grades=8), anything=True)
            taken.extend(names(claims.claim(session, job.id, outlook.groups)))

    def claim_often(_: int) -> None:
        for _ in range(15):
            claim_some()

    with ThreadPoolExecutor(5) as pool:
        done = [pool.submit(grade, store, *everything[start::3]) for start in range(3)]
        done += [pool.submit(claim_often, number) for number in range(2)]
        for future in done:
            future.result()
    while fresh(store):
        claim_some()
    assert Counter(taken) == Counter(everything)
    assert books_agree(store)
