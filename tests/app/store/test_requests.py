"""A request is stored once for all its answers, by whichever comes first, and goes with the last of them."""

import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

from sqlalchemy import func, select

from app.identifiers import uuid7
from app.store import interactions, requests
from app.store.connect import Store
from app.store.erasure import Subject, begin, step
from app.store.requests import Asked
from app.store.tables import Checkpoint, Interaction, StoredRequest
from tests.conftest import Answers, answer

ASKED = Asked({"messages": [{"content": "a"}]}, ("one", "two\x00"), {"type": "math"}, {"note": "n"})


def stored(store: Store) -> int:
    with store.session() as session:
        return session.scalars(select(func.count()).select_from(StoredRequest)).one()


def erase(store: Store, one: UUID) -> None:
    subject = Subject(interaction_id=one)
    with store.session() as session:
        wish = begin(session, subject, "test")
        while step(session, wish.id, subject):
            pass


def write(store: Store, base: Checkpoint, request_id: UUID, choice: int, prompt: int = 0) -> UUID:
    """Store one answer as the server does."""
    known = answer(base, f"cmpl-{request_id.hex}.{prompt}", choice, 100)
    del known["asked"]
    with store.session() as session:
        requests.keep(session, request_id, lambda: ASKED)
        row = Interaction(**known, request_id=request_id, prompt_index=prompt)
        interactions.record(session, row, codec=1, payload=b"x")
        return row.id


def test_an_answer_reads_back_what_was_asked(store: Store, base_checkpoint: Checkpoint) -> None:
    one = write(store, base_checkpoint, uuid7(), 0, prompt=1)
    with store.session() as session:
        row = interactions.get_interaction(session, one)
    assert (row.request, row.prompt_text) == (ASKED.body, "two\ufffd"), "NUL is what Postgres cannot hold"
    assert (row.grader, row.client_metadata) == (ASKED.grader, ASKED.metadata)


def test_answers_that_are_committed_together_share_one_request(store: Store, base_checkpoint: Checkpoint) -> None:
    request_id = uuid7()
    with ThreadPoolExecutor(6) as pool:
        ids = list(pool.map(lambda choice: write(store, base_checkpoint, request_id, choice), range(40)))
    assert stored(store) == 1
    with store.session() as session:
        assert len(set(session.scalars(select(Interaction.id).where(Interaction.request_id == request_id)))) == len(ids)


def test_a_stored_request_is_not_written_again(store: Store, base_checkpoint: Checkpoint) -> None:
    request_id = uuid7()
    write(store, base_checkpoint, request_id, 0)
    written: list[bool] = []
    with store.session() as session:
        requests.keep(session, request_id, lambda: written.append(True))  # type: ignore[arg-type, return-value]
    assert (written, stored(store)) == ([], 1)


def test_a_request_goes_with_the_last_of_its_answers(store: Store, answers: Answers) -> None:
    first, second = answers(2)
    answers(1)
    erase(store, first)
    assert stored(store) == 2
    erase(store, second)
    assert stored(store) == 1


def test_a_removal_beside_a_late_answer_leaves_no_answer_without_its_request(
    store: Store, base_checkpoint: Checkpoint
) -> None:
    """The last answer that is there is removed while another of the same request is being written."""
    for _ in range(20):
        request_id = uuid7()
        first = write(store, base_checkpoint, request_id, 0)
        together = threading.Barrier(2)

        def late(request_id: UUID = request_id, together: threading.Barrier = together) -> UUID:
            together.wait()
            return write(store, base_checkpoint, request_id, 1)

        def removed(first: UUID = first, together: threading.Barrier = together) -> None:
            together.wait()
            erase(store, first)

        with ThreadPoolExecutor(2) as pool:
            writing, removing = pool.submit(late), pool.submit(removed)
            removing.result(timeout=20)
            second = writing.result(timeout=20)
        with store.session() as session:
            assert interactions.get_interaction(session, second).request == ASKED.body
        erase(store, second)
        assert stored(store) == 0
