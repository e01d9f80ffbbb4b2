"""Answers found by what a person knows of them, within what the filters let be seen."""

import pytest
from sqlalchemy import select, update

from app.store import interactions
from app.store.connect import Store
from app.store.console_search import Search, next_disputed, next_ungraded, search
from app.store.grades import Entry, add_grade
from app.store.interactions import Filters
from app.store.keys import create_key
from app.store.projects import create_project
from app.store.tables import Checkpoint, Interaction
from tests.app.store.acts import grade
from tests.conftest import Answers


def words(store: Store, more: Search, filters: Filters | None = None) -> list[str]:
    with store.session() as session:
        return [row.answer for row, _ in search(session, filters or Filters(), more).items]


def say(store: Store, answers: Answers, *texts: str) -> None:
    """Write answers that say this, the last one the newest."""
    for one in texts:
        [made] = answers()
        with store.session() as session:
            session.execute(update(Interaction).where(Interaction.id == made).values(answer=one))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("HALF", ["half of it", "50% of it, half"]),
        ("50%", ["50% of it, half"]),
        ("5_%", []),
        ("1+1?", None),
        ("x\\", []),
    ],
)
def test_words_are_found_as_they_are(
    store: Store, answers: Answers, base_checkpoint: Checkpoint, asked: str, found: list[str] | None
) -> None:
    """In answers and prompts, in any case; what LIKE reads as a pattern is no pattern."""
    say(store, answers, "50% of it, half", "500 of it", "half of it")
    assert words(store, Search(words=asked)) == (
        ["half of it", "500 of it", "50% of it, half"] if found is None else found
    )


def test_other_conditions_narrow_it_down(store: Store, answers: Answers, base_checkpoint: Checkpoint) -> None:
    say(store, answers, "good", "bad", "ungraded")
    with store.session() as session:
        bad, good = session.scalars(
            select(Interaction.id).where(Interaction.answer.in_(("good", "bad"))).order_by("answer")
        )
        add_grade(session, good, Entry("client", "a", value=0.9))
        add_grade(session, bad, Entry("math", "m", value=0.1))
        add_grade(session, bad, Entry("user", "u", state="corrected", correction="better"))
    assert words(store, Search(least=0.5)) == ["good"]
    assert words(store, Search(most=0.5)) == ["bad"]
    assert words(store, Search(grader="math")) == ["bad"]
    assert words(store, Search(corrected=True)) == ["bad"]
    assert words(store, Search(session_name="none")) == []


def test_pages_follow_one_another(store: Store, answers: Answers, base_checkpoint: Checkpoint) -> None:
    say(store, answers, *(f"answer {place}" for place in range(5)))
    seen: list[str] = []
    after = None
    with store.session() as session:
        while True:
            found = search(session, Filters(), Search(words="answer"), limit=2, after=after)
            seen += [row.answer for row, _ in found.items]
            after = found.next_after
            if after is None:
                break
    assert seen == [f"answer {place}" for place in (4, 3, 2, 1, 0)]


def test_nobody_finds_what_the_filters_hide(store: Store, answers: Answers, base_checkpoint: Checkpoint) -> None:
    say(store, answers, "of the default project")
    with store.session() as session:
        create_project(session, "elsewhere")
        create_key(session, "other", ["infer"], project="elsewhere")
    for more in (Search(), Search(words="default")):
        assert words(store, more, Filters(project_id="elsewhere")) == []
        assert words(store, more, Filters(project_id="default")) == ["of the default project"]


def test_the_queue_shows_ungraded_ones_and_leaves_out_what_a_grader_will_grade(
    store: Store, answers: Answers, base_checkpoint: Checkpoint
) -> None:
    first, second, third = (answers()[0] for _ in range(3))
    grade(store, third)
    with store.session() as session:
        session.execute(update(Interaction).where(Interaction.id == second).values(grading_state="pending"))
        shown = next_ungraded(session, Filters(), None)
        assert shown is not None
        assert shown.id == first
        assert next_ungraded(session, Filters(), first) is None


def test_disputed_are_those_whose_graders_differ_by_half(
    store: Store, answers: Answers, base_checkpoint: Checkpoint
) -> None:
    agreed, disputed = (answers()[0] for _ in range(2))
    with store.session() as session:
        for one, values in ((agreed, (0.6, 1.0)), (disputed, (0.4, 1.0))):
            for name, value in zip("ab", values, strict=True):
                add_grade(session, one, Entry("user", name, value=value))
        shown = next_disputed(session, Filters(), None)
        assert shown is not None
        assert shown.id == disputed
        assert next_disputed(session, Filters(), disputed) is None
        assert interactions.get_interaction(session, agreed).reward == pytest.approx(0.8)
