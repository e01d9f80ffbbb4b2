"""What an update would learn from, and the words for why there is none."""

from datetime import timedelta
from uuid import UUID

import pytest
from sqlalchemy import func, select, update

from app.settings import Settings
from app.store import grades, jobs, learnable, learning
from app.store.connect import Store
from app.store.grades import Entry
from app.store.learnable import LONGEST_PAUSE
from app.store.tables import Checkpoint, Interaction, Job
from tests.app.store.acts import (
    age,
    fresh,
    grade,
    improve,
    key,
    look,
    move,
    offered,
    promote,
    publish,
    settings,
    started,
)
from tests.conftest import Answers

HOUR = timedelta(hours=1)


def graded(store: Store, answers: Answers, count: int, *, by: str | None = None, value: float = 1.0) -> list[UUID]:
    """Write responses of one answer, and grade them."""
    ids = [answers()[0] for _ in range(count)]
    grade(store, *ids, value=value, key=None if by is None else key(store, by))
    return ids


def over(store: Store, fault: jobs.Fault | None, ago: timedelta = timedelta(0)) -> None:
    """Run a job to its end, some time ago."""
    job, fence = started(store)
    with store.session() as session:
        jobs.finish(session, job.id, fence, "failed" if fault else "succeeded", "release", fault=fault)
        session.execute(update(Job).where(Job.id == job.id).values(finished_at=func.clock_timestamp() - ago))


def test_two_answers_with_contrast_are_offered(store: Store, answers: Answers) -> None:
    ids = [*graded(store, answers, 1), *graded(store, answers, 1, value=0.0)]
    outlook = look(store)
    assert outlook.words is None
    assert offered(outlook) == set(ids)
    assert set(outlook.charged) == set(outlook.groups)


def test_too_few(store: Store, answers: Answers) -> None:
    graded(store, answers, 3)
    assert look(store, min_grades=8).words == "too few grades: 3 of 8 answers wait"
    assert offered(look(store, min_grades=8)) == set()


def test_every_reason_to_wait_has_its_words(store: Store, base_checkpoint: Checkpoint, answers: Answers) -> None:
    [*graded(store, answers, 2), *graded(store, answers, 2, value=0.0)]
    assert look(store).words is None
    assert look(store, learn=False).words == "learning is off (LEPO_LEARN)"
    with store.session() as session:
        learning.freeze(session, "k1", "exam week")
    assert look(store).words == "frozen by k1: exam week"
    with store.session() as session:
        learning.thaw(session, "k1")
        learning.pin(session, "k2", "a paper rests on it")
    assert look(store).words == "what serves is pinned by k2: a paper rests on it"
    with store.session() as session:
        learning.unpin(session, "k2")
    row = publish(store, base_checkpoint)
    for event, name in (("hold", "held"), ("shadow", "shadow"), ("canary", "canary")):
        move(store, row, event)  # type: ignore[arg-type]
        assert look(store).words == f"version 1 is {name} and waits for a decision: promote or discard it"
    move(store, row, "discard")
    assert look(store).words is None


def test_nothing_serves(store: Store) -> None:
    assert look(store).words == "nothing serves yet"


def test_the_pace_of_updates(store: Store, answers: Answers) -> None:
    [*graded(store, answers, 1), *graded(store, answers, 1, value=0.0)]
    assert look(store, update_interval=600.0).words is None, "there was none yet"
    over(store, None, ago=timedelta(minutes=5))
    words = look(store, update_interval=600.0).words
    assert words is not None
    assert words.endswith("s more: the pace of updates (LEPO_UPDATE_INTERVAL)")
    assert 200 < int(words.split()[1]) <= 300
    assert look(store, update_interval=299.0).words is None
    assert look(store).words is None, "no pace is the default"


def test_a_pause_after_failures_that_doubles_and_has_an_end(store: Store, answers: Answers) -> None:
    [*graded(store, answers, 1), *graded(store, answers, 1, value=0.0)]
    for failures in range(1, 12):
        over(store, "infrastructure")
        pause = min(LONGEST_PAUSE, timedelta(seconds=Settings().learn_interval) * 2 ** (failures - 1))
        words = look(store).words
        assert words is not None
        assert ("the last job failed" in words) if failures == 1 else (f"the last {failures} jobs failed" in words)
        assert pause.total_seconds() - 5 < int(words.split()[1]) <= pause.total_seconds()
    with store.session() as session:
        session.execute(update(Job).values(finished_at=Job.finished_at - LONGEST_PAUSE))
    assert look(store).words is None
    over(store, "operator")
    assert "11 jobs" in (look(store).words or "")
    over(store, None)
    assert look(store).words is None


def test_a_refusal_makes_batches_smaller(store: Store, answers: Answers) -> None:
    for _ in range(20):
        graded(store, answers, 1)
        graded(store, answers, 1, value=0.0)
    assert len(offered(look(store, min_grades=4, max_grades=16))) == 16
    with store.session() as session:
        learning.back_off(session, freeze_after=5)
    assert len(offered(look(store, min_grades=4, max_grades=16))) == 8
    assert look(store, min_grades=82).words == "too few grades: 40 of 41 answers wait"


def test_the_newest_policys_answers_first(store: Store, answers: Answers) -> None:
    ids = {version: answers(2, policy_version=version) for version in (1, 3, 2)}
    for pair in ids.values():
        grade(store, pair[0])
        grade(store, pair[1], value=0.0)
    assert offered(look(store, max_grades=2)) == set(ids[3])
    assert offered(look(store, max_grades=4)) == {*ids[3], *ids[2]}
    assert offered(look(store)) == fresh(store), "whatever their version, all teach"


def test_a_response_waits_for_its_last_grade_but_not_for_ever(store: Store, answers: Answers) -> None:
    group = answers(4)
    grade(store, *group[:2])
    grade(store, group[2], value=0.0)
    assert look(store).words == "too few grades: 0 of 2 answers wait"
    age(store, group[:3], timedelta(minutes=2))
    assert offered(look(store, group_grace=60.0)) == set(group[:3])
    improve(store, group[:3])
    grade(store, group[3], value=0.0)
    assert look(store, min_grades=2).words == "too few grades: 1 of 2 answers wait", "a late grade is welcome, alone"
    [other] = graded(store, answers, 1)
    assert offered(look(store)) == {group[3], other}


@pytest.mark.parametrize(
    "change", [{"learnable": False, "unlearnable_reason": "cancelled"}, {"grading_state": "failed"}], ids=str
)
def test_a_choice_that_can_get_no_grade_holds_nobody_up(
    store: Store, answers: Answers, change: dict[str, object]
) -> None:
    group = answers(3)
    with store.session() as session:
        session.execute(update(Interaction).where(Interaction.id == group[2]).values(**change))
    grade(store, group[0])
    grade(store, group[1], value=0.0)
    assert offered(look(store)) == set(group[:2])


def test_a_response_whose_last_choice_is_still_being_written_waits(store: Store, answers: Answers) -> None:
    [one] = answers(group_size=2)
    grade(store, one)
    graded(store, answers, 1, value=0.0)
    assert one not in offered(look(store, grade_patience=0.0))


def test_unfinished_responses_hide_nothing_behind_them(store: Store, answers: Answers) -> None:
    """The newest answers of a key all wait for the rest of their response; the older ones can be learned from."""
    older = [*graded(store, answers, 2), *graded(store, answers, 2, value=0.0)]
    age(store, older, HOUR)
    for _ in range(40):
        grade(store, answers(2)[0])
    outlook = look(store, max_grades=8)
    assert outlook.words is None
    assert offered(outlook) <= set(older)


def test_patience_with_too_few_grades(store: Store, answers: Answers) -> None:
    [old] = graded(store, answers, 1)
    age(store, [old], HOUR)
    assert look(store, min_grades=8, grade_patience=60.0).words == "too few grades: 1 of 2 answers wait"
    [new] = graded(store, answers, 1, value=0.0)
    assert look(store, min_grades=8).words == "too few grades: 2 of 8 answers wait", "for ever, unless it is set"
    assert offered(look(store, min_grades=8, grade_patience=60.0)) == {old, new}
    assert look(store, min_grades=8, grade_patience=7200.0).words == "too few grades: 2 of 8 answers wait"


def test_thumbs_up_only_waits_and_says_so(store: Store, answers: Answers) -> None:
    ids = graded(store, answers, 5)
    assert (
        look(store).words == "no contrast: all of 5 answers have the same reward; grade some that are better or worse"
    )
    assert fresh(store) == set(ids), "they wait"
    [down] = graded(store, answers, 1, value=0.0)
    assert offered(look(store)) == {*ids, down}


def test_a_thumbs_down_at_the_bottom_of_a_backlog_is_found(store: Store, answers: Answers) -> None:
    """Neither among the newest nor among the oldest: an old policy's answer, graded in between."""
    graded(store, answers, 30)
    [down] = answers(policy_version=0)
    with store.session() as session:
        session.execute(update(Interaction).values(policy_version=2))
        session.execute(update(Interaction).where(Interaction.id == down).values(policy_version=1))
    grade(store, down, value=0.0)
    for one in graded(store, answers, 30):
        with store.session() as session:
            session.execute(update(Interaction).where(Interaction.id == one).values(policy_version=0))
    outlook = look(store, max_grades=4)
    assert outlook.words is None
    assert down in offered(outlook)
    assert len(offered(outlook)) == 4


def test_a_second_keys_one_request_delays_and_does_not_block(store: Store, answers: Answers) -> None:
    """A busy key beside one response of four: the batch waits for the patience, then any key fills it up."""
    busy = [*graded(store, answers, 40, by="busy"), *graded(store, answers, 40, by="busy", value=0.0)]
    other = answers(4)
    grade(store, *other, value=0.5, key=key(store, "other"))
    words = look(store, min_grades=16).words
    assert words is not None
    assert words.startswith("too few grades by other keys: 84 answers wait, 8 of 16 are within each key's share")
    assert "LEPO_KEY_SHARE=0.5" in words
    assert "LEPO_KEY_PATIENCE" in words
    outlook = look(store, min_grades=16, key_patience=0.0)
    assert len(offered(outlook)) == 16
    assert set(other) <= offered(outlook)
    assert len(outlook.charged) == 13
    improve(store, offered(outlook))
    assert fresh(store) == {*busy, *other} - offered(outlook), "what was over the share waits"
    after = look(store, min_grades=16)
    assert after.words is None, "alone again, the busy key has no bound"
    assert len(offered(after)) == 64


def test_sixty_three_and_one_burn_nothing(store: Store, answers: Answers) -> None:
    ids = [*graded(store, answers, 43, by="busy"), *graded(store, answers, 20, by="busy", value=0.0)]
    ids += graded(store, answers, 1, by="other")
    words = look(store, min_grades=64, max_grades=512).words
    assert words is not None
    assert "64 answers wait, 2 of 64 are within" in words
    assert fresh(store) == set(ids)
    age(store, ids, timedelta(seconds=61))
    assert offered(look(store, min_grades=64, max_grades=512, key_patience=60.0)) == set(ids)


def test_the_keys_patience_begins_again_with_every_update(store: Store, answers: Answers) -> None:
    ids = [*graded(store, answers, 20, by="busy"), *graded(store, answers, 1, by="other", value=0.0)]
    age(store, ids, HOUR)
    assert look(store, min_grades=8, key_patience=60.0).words is None
    over(store, None)
    assert "by other keys" in (look(store, min_grades=8, key_patience=60.0).words or "")


def test_a_flood_gets_its_share_of_every_batch(store: Store, answers: Answers) -> None:
    flood = graded(store, answers, 100, by="flood")
    others = [*graded(store, answers, 8, by="b", value=0.0), *graded(store, answers, 8, by="c", value=0.5)]
    outlook = look(store, min_grades=8, max_grades=64)
    assert set(others) < offered(outlook)
    assert len(offered(outlook) & set(flood)) == 16
    assert sorted(set(outlook.charged.values())) == ["b", "c", "flood"]


def test_an_answer_counts_for_who_graded_it_and_not_for_who_asked(store: Store, answers: Answers) -> None:
    asker = key(store, "asker")
    ids = [answers(api_key_id=asker)[0] for _ in range(3)]
    grade(store, ids[0], key=key(store, "grader"))
    grade(store, ids[1], value=0.0)  # by a grader of this server
    with store.session() as session:
        session.execute(update(Interaction).where(Interaction.id == ids[2]).values(api_key_id=None))
    grade(store, ids[2], value=0.0)
    assert sorted(look(store, key_patience=0.0, min_grades=3).charged.values()) == ["", "asker", "grader"]


def test_a_flood_does_not_hide_behind_answers_that_others_graded_too(store: Store, answers: Answers) -> None:
    flood = graded(store, answers, 10, by="flood")
    grade(store, flood[0], key=key(store, "other"))
    graded(store, answers, 1, by="other", value=0.0)
    outlook = look(store, min_grades=2)
    counted = sorted(outlook.charged.values())
    assert counted == ["flood", "other"], "of eleven by flood and two by other, those they share are flood's"


def test_who_asked_for_an_update_gets_one_of_what_there_is(store: Store, answers: Answers) -> None:
    def asked(**changes: object) -> learnable.Outlook:
        with store.session() as session:
            return learnable.offer(session, settings(**changes), anything=True)

    assert asked().words == "too few grades: 0 of 1 answers wait"
    [one] = graded(store, answers, 1, by="busy")
    assert offered(asked(min_grades=8)) == {one}
    graded(store, answers, 20, by="busy")
    graded(store, answers, 1, by="other")
    assert len(offered(asked(min_grades=8))) == 8, "an update on two would teach nothing"


def test_a_frozen_service_counts_what_waits(store: Store, base_checkpoint: Checkpoint, answers: Answers) -> None:
    graded(store, answers, 3)
    with store.session() as session:
        learning.freeze(session, "k", "no")
        assert learnable.count_waiting(session) == 3


def test_a_grade_taken_back_waits_no_more(store: Store, answers: Answers) -> None:
    [one] = graded(store, answers, 1)
    graded(store, answers, 1, value=0.0)
    with store.session() as session:
        grades.retract(session, one, Entry("client", "a", state="retracted"))
    assert look(store).words == "too few grades: 1 of 2 answers wait"
    with store.session() as session:
        assert session.scalar(select(Interaction.reward).where(Interaction.id == one)) is None


def test_a_promotion_meanwhile_makes_no_answer_old(store: Store, base_checkpoint: Checkpoint, answers: Answers) -> None:
    ids = [*graded(store, answers, 1), *graded(store, answers, 1, value=0.0)]
    for _ in range(5):
        promote(store, publish(store, base_checkpoint))
    assert offered(look(store)) == set(ids)
