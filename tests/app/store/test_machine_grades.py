"""Any order of grades: the reward is the mean of each grader's latest word, and no entry is lost."""

from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import func, select

from app.errors import NotFound
from app.store import grades
from app.store.connect import Store
from app.store.grades import Entry
from app.store.tables import Grade
from tests.app.store.acts import books_agree
from tests.app.store.machines import base, run


class Ledger(RuleBasedStateMachine):
    """Graders of three answers, in any order: the reward is the mean of each grader's latest word."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        _, self.answers = base(store, 3)
        self.words: dict[UUID, dict[str, float]] = {one: {} for one in self.answers}  # answer -> grader -> value
        self.entries = 0

    @rule(answer=st.integers(0, 2), grader=st.sampled_from("abc"), value=st.floats(-5, 5))
    def grade(self, answer: int, grader: str, value: float) -> None:
        with self.store.session() as session:
            grades.add_grade(session, self.answers[answer], Entry("client", grader, value=value))
        self.words[self.answers[answer]][grader] = value
        self.entries += 1

    @rule(answer=st.integers(0, 2), grader=st.sampled_from("abc"))
    def fail(self, answer: int, grader: str) -> None:
        with self.store.session() as session:
            grades.add_grade(session, self.answers[answer], Entry("client", grader, state="failed"))
        self.entries += 1

    @rule(answer=st.integers(0, 2), grader=st.sampled_from("abc"))
    def take_back(self, answer: int, grader: str) -> None:
        one = self.answers[answer]
        with self.store.session() as session:
            last = grades.latest_entry(session, one, "client", grader)
        taken_back = Entry("client", grader, state="retracted")
        try:
            with self.store.session() as session:
                grades.retract(session, one, taken_back)
        except NotFound:
            assert last is None or last.state == "retracted"
            assert grader not in self.words[one]
        else:
            self.words[one].pop(grader, None)
            self.entries += 1

    @invariant()
    def the_reward_is_the_mean_of_the_latest_words(self) -> None:
        with self.store.session() as session:
            found = grades.rewards(session, self.answers)
            written = session.scalars(select(func.count()).select_from(Grade)).one()
        assert written == self.entries, "an entry is never lost, edited or removed"
        assert set(found) == {one for one, words in self.words.items() if words}
        for one, reward in found.items():
            values = self.words[one].values()
            assert reward.graders == len(values)
            assert abs(reward.value - sum(values) / len(values)) < 1e-9

    @invariant()
    def the_answers_rows_repeat_it(self) -> None:
        assert books_agree(self.store)


def test_any_order_of_grades(store: Store) -> None:
    run(lambda: Ledger(store))
