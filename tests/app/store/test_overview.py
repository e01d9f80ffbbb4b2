"""The overview's figures, as the console and the demo show them."""

from app.store.connect import Store
from app.store.evaluations import record_evaluation
from app.store.overview import overview
from app.store.tables import Checkpoint
from tests.app.store.acts import publish


def test_a_version_is_shown_by_all_that_it_was_asked(store: Store, base_checkpoint: Checkpoint) -> None:
    """A look of the gate asks a small part of the held-out prompts; what serves is asked at every look."""
    first = publish(store, base_checkpoint)
    with store.session() as session:
        for checkpoint, kind, correct, total in (
            (base_checkpoint, "base", 30, 80),
            (first, "gate", 60, 80),
            (base_checkpoint, "heldout", 20, 20),
            (first, "heldout", 0, 20),
        ):
            record_evaluation(session, checkpoint.id, kind, correct=correct, total=total)
        history = overview(session).history
    assert [(one.version, one.correct, one.total, one.accuracy) for one in history] == [
        (0, 50, 100, 0.5),
        (1, 60, 100, 0.6),
    ]
