"""Live rewards as the console draws them: by version, and over time in groups of as many answers."""

from datetime import timedelta

from sqlalchemy import update

from app.store.connect import Store
from app.store.console_overview import FEWEST, rewards_by_version, rewards_over_time
from app.store.tables import Checkpoint, Interaction
from tests.app.store.acts import grade
from tests.conftest import Answers


def answered(store: Store, answers: Answers, count: int, value: float, hours_ago: float) -> None:
    """Write graded answers of some hours ago."""
    for _ in range(count):
        [made] = answers()
        grade(store, made, value=value)
        with store.session() as session:
            earlier = Interaction.created_at - timedelta(hours=hours_ago)
            session.execute(update(Interaction).where(Interaction.id == made).values(created_at=earlier))


def test_too_few_answers_have_no_mean(store: Store, answers: Answers, base_checkpoint: Checkpoint) -> None:
    answered(store, answers, FEWEST - 1, 1.0, 0)
    with store.session() as session:
        assert rewards_by_version(session) == []
        assert rewards_over_time(session) == []


def test_a_quiet_night_takes_no_room(store: Store, answers: Answers, base_checkpoint: Checkpoint) -> None:
    answered(store, answers, FEWEST, 0.0, 10)
    answered(store, answers, FEWEST, 1.0, 0)
    with store.session() as session:
        [whole] = rewards_by_version(session)
        early, late = rewards_over_time(session)
    assert (whole.at, whole.mean, whole.answers) == (0.0, 0.5, 2 * FEWEST)
    assert whole.low < 0.5 < whole.high
    assert (early.mean, late.mean) == (0.0, 1.0)
    assert early.low < 0 < early.high, "where all are alike there is doubt left"
    assert 9 * 3600 < late.at - early.at < 11 * 3600
