"""Claims: at most once, whole groups, nothing lost, with sessions that really run at the same time."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from uuid import UUID

import pytest
from sqlalchemy import func, select, text, update
from sqlalchemy.exc import IntegrityError

from app.store import claims, grades, jobs
from app.store.claims import Claimed
from app.store.connect import Store
from app.store.grades import Entry
from app.store.tables import Claim, Interaction, Job

Answers = Callable[..., list[UUID]]

LONG = timedelta(hours=1)


@pytest.fixture
def job(store: Store) -> Job:
    with store.session() as session:
        jobs.request(session, trigger="admin", requested_by="test")
        started = jobs.start(session, "worker")
    assert started is not None
    return started


def grade(store: Store, *ids: UUID, value: float = 1.0) -> None:
    for one in ids:
        with store.session() as session:
            grades.add_grade(session, one, Entry("client", "a", value=value))


def take(store: Store, job: Job, limit: int = 100, min_version: int = 0, grace: timedelta = LONG) -> list[Claimed]:
    with store.session() as session:
        return claims.claim(session, job.id, limit=limit, min_version=min_version, grace=grace)


def ids(taken: list[Claimed]) -> set[UUID]:
    return {item.interaction.id for item in taken}


def bookkeeping_agrees(store: Store) -> bool:
    claimed_elsewhere = select(Claim.interaction_id).where(Claim.interaction_id == Interaction.id).exists()
    with store.session() as session:
        return session.scalar(select(func.count()).where(Interaction.claimed != claimed_elsewhere)) == 0


def test_two_that_claim_at_once_never_overlap(store: Store, answers: Answers, job: Job) -> None:
    for _ in range(40):
        grade(store, *answers(2))
    start = Barrier(4)

    def claim_until_empty(_: int) -> list[UUID]:
        start.wait()
        mine: list[UUID] = []
        while True:
            with store.session() as session:
                taken = claims.claim(session, job.id, limit=6, grace=LONG)
                session.execute(text("SELECT pg_sleep(0.01)"))
            if not taken:
                return mine
            mine += [item.interaction.id for item in taken]

    with ThreadPoolExecutor(4) as pool:
        taken = [one for part in pool.map(claim_until_empty, range(4)) for one in part]
    taken += ids(take(store, job))  # what all four left to each other
    assert len(taken) == len(set(taken)) == 80
    assert bookkeeping_agrees(store)


def test_a_second_claim_cannot_exist(store: Store, answers: Answers, job: Job) -> None:
    [one] = answers()
    grade(store, one)
    assert ids(take(store, job)) == {one}
    with pytest.raises(IntegrityError, match="pk_claims"), store.session() as session:
        claims.write(session, job.id, [one], "claimed", None)


def test_what_is_held_elsewhere_is_left_out_with_its_group(store: Store, answers: Answers, job: Job) -> None:
    held, free = answers(3), answers(3)
    grade(store, *held, *free)
    with store.session() as other:
        other.execute(select(Interaction).where(Interaction.id == held[1]).with_for_update())
        assert ids(take(store, job)) == set(free)
    assert ids(take(store, job)) == set(held)


def test_a_group_waits_for_its_last_grade_but_not_for_ever(store: Store, answers: Answers, job: Job) -> None:
    group = answers(4)
    grade(store, *group[:3])
    assert take(store, job) == []
    with store.session() as session:
        session.execute(update(Interaction).values(graded_at=func.now() - timedelta(minutes=2)))
        session.execute(update(Interaction).where(Interaction.id == group[3]).values(graded_at=None))
    assert ids(take(store, job, grace=timedelta(minutes=1))) == set(group[:3])
    grade(store, group[3])
    assert ids(take(store, job)) == {group[3]}, "a late grade is welcome, alone"


@pytest.mark.parametrize(
    "change",
    [
        {"learnable": False, "unlearnable_reason": "cancelled"},
        {"grading_state": "failed"},
    ],
)
def test_a_choice_that_can_get_no_grade_holds_nobody_up(
    store: Store, answers: Answers, job: Job, change: dict[str, object]
) -> None:
    group = answers(3)
    with store.session() as session:
        session.execute(update(Interaction).where(Interaction.id == group[2]).values(**change))
    grade(store, *group[:2])
    assert ids(take(store, job)) == set(group[:2])


def test_a_group_whose_last_choice_is_still_being_written_waits(store: Store, answers: Answers, job: Job) -> None:
    [one] = answers(group_size=2)
    grade(store, one)
    assert take(store, job) == []


def test_the_longest_waiting_first_and_groups_whole(store: Store, answers: Answers, job: Job) -> None:
    groups = [answers(3) for _ in range(4)]
    for group in reversed(groups):
        grade(store, *group)
    assert ids(take(store, job, limit=7)) == {*groups[3], *groups[2]}
    assert ids(take(store, job, limit=1)) == set(groups[1]), "a group larger than the limit is not starved"


def test_the_newest_policy_first_however_long_the_older_wait(store: Store, answers: Answers, job: Job) -> None:
    old, new = answers(2, policy_version=1), answers(2, policy_version=2)
    grade(store, *old, *new)
    assert ids(take(store, job, limit=2)) == set(new)
    assert ids(take(store, job, limit=2)) == set(old), "the older are not lost"


def test_too_old_is_claimed_as_skipped_and_says_why(store: Store, answers: Answers, job: Job) -> None:
    old, new = answers(2, policy_version=1), answers(2, policy_version=2)
    grade(store, *old, *new)
    with store.session() as session:
        assert claims.count_fresh(session, min_version=2) == 2
    assert ids(take(store, job, min_version=2)) == set(new)
    with store.session() as session:
        assert claims.outcomes(session, job.id) == {"claimed": 2, "skipped:stale": 2}
        assert claims.count_fresh(session) == 0


def test_ungraded_failed_and_unlearnable_are_never_claimed(store: Store, answers: Answers, job: Job) -> None:
    [_ungraded], [failed] = answers(), answers()
    [unlearnable] = answers(learnable=False, unlearnable_reason="cancelled")
    with store.session() as session:
        grades.add_grade(session, failed, Entry("math", "m", state="failed"))
    grade(store, unlearnable)
    assert take(store, job, grace=timedelta(0)) == []


def test_a_claim_carries_reward_rollout_and_who_graded(store: Store, answers: Answers, job: Job) -> None:
    [one] = answers()
    grade(store, one, value=0.25)
    with store.session() as session:
        grades.add_grade(session, one, Entry("math", "m", value=0.75))
    [item] = take(store, job)
    assert (item.reward.value, item.reward.graders) == (0.5, 2)
    assert (item.codec, item.payload, item.grader_keys) == (1, b"\x00\x01", frozenset())


def test_success_learns_what_was_not_skipped(store: Store, answers: Answers, job: Job) -> None:
    one, two = answers(2)
    grade(store, one, two)
    take(store, job)
    assert job.fence is not None
    with store.session() as session:
        claims.skip(session, job.id, {two: "key_share"})
        jobs.finish(session, job.id, job.fence, "succeeded", verdict="promoted")
    with store.session() as session:
        assert claims.outcomes(session, job.id) == {"learned": 1, "skipped:key_share": 1}


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_failure_gives_back(store: Store, answers: Answers, job: Job, status: jobs.Outcome) -> None:
    one, two = answers(2)
    grade(store, one, two)
    take(store, job)
    assert job.fence is not None
    with store.session() as session:
        claims.skip(session, job.id, {two: "corrupt"})
        jobs.finish(session, job.id, job.fence, status)
    assert bookkeeping_agrees(store)
    with store.session() as session:
        assert claims.count_fresh(session) == 1
        assert claims.outcomes(session, job.id) == {"skipped:corrupt": 1}


def test_concurrent_graders_and_claimers_lose_nothing(store: Store, answers: Answers, job: Job) -> None:
    everything = [one for _ in range(20) for one in answers(2)]
    taken: list[UUID] = []

    def claim_often(_: int) -> None:
        for _ in range(25):
            taken.extend(ids(take(store, job, limit=8)))

    with ThreadPoolExecutor(5) as pool:
        done = [pool.submit(grade, store, *everything[start::3]) for start in range(3)]
        done += [pool.submit(claim_often, number) for number in range(2)]
        for future in done:
            future.result()
    taken.extend(ids(take(store, job)))
    assert Counter(taken) == Counter(everything)
    assert bookkeeping_agrees(store)
