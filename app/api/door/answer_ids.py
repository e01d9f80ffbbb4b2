"""Finding the answer that an id in a path means: `int_...`, or a response's id where it has one answer.

An answer that the caller may not reach is answered for exactly as one that does not exist, whatever was asked.
"""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.api.door.callers import Caller
from app.errors import BadRequest, Conflict, NotFound
from app.identifiers import read
from app.store.interactions import choices, get_interaction
from app.store.projects import project_of
from app.store.tables import Interaction

UNFINISHED: Final[dict[str, Any]] = {"description": "It is not finished yet."}  # a 409 of routes that `find`


def find(
    session: Session,
    text: str,
    choice: int | None,
    underway: Mapping[str, str | None],
    caller: Caller,
    *,
    others: bool = False,
) -> Interaction:
    """Find an answer that a caller may reach.

    Args:
        session: a transaction.
        text: `int_<32 hex>`, or a response's id.
        choice: which of a response's choices; needed when it has several.
        underway: responses whose answers this server is still writing, with the key that asked.
        caller: who wants it.
        others: whether what other keys of its project asked is within its reach too; for an admin key it always is.

    Raises:
        NotFound: there is none.
        Conflict: it is not finished yet.
        BadRequest: the response has several choices and none was named.

    """
    if text.startswith("int_"):
        return found(session, text, caller, others=others)
    rows = {row.choice: row for row in choices(session, text) if reaches_answer(caller, row, others=others)}
    several = any(row.group_size > 1 for row in rows.values())
    if choice is None and several:
        raise BadRequest("This response has several choices; name one by `choice`, or use its id.", param="choice")
    if (row := rows.get(choice or 0)) is not None:
        return row
    if text in underway and reaches(caller, underway[text], project(session, underway[text]), None, others=others):
        raise Conflict("This answer is not finished yet; try again when it is.", code="not_finished", retry_after=1)
    raise NotFound(f"There is no answer {text[:80]}" + (f", choice {choice}." if choice else "."))


def found(session: Session, text: str, caller: Caller, *, others: bool) -> Interaction:
    """Find an answer by its own id.

    Raises:
        NotFound: there is none within reach.

    """
    try:
        row = get_interaction(session, read("int", text))
    except (ValueError, NotFound):
        row = None
    if row is None or not reaches_answer(caller, row, others=others):
        raise NotFound(f"There is no interaction {text[:80]}.")
    return row


def project(session: Session, key_id: str | None) -> str:
    """Say to which project an answer will belong that a key asked for."""
    return session.scalars(select(project_of(key_id))).one()


def reaches_answer(caller: Caller, row: Interaction, *, others: bool) -> bool:
    """Tell whether an answer is within a caller's reach."""
    return reaches(caller, row.api_key_id, row.project_id, row.id, others=others)


def reaches(caller: Caller, key_id: str | None, project: str, answer: UUID | None, *, others: bool) -> bool:
    """Tell whether something is within a caller's reach.

    Args:
        caller: who wants it; a grading token reaches its one answer and no other.
        key_id: the key that asked for it.
        project: of that key.
        answer: its id, once it has one.
        others: whether what other keys of the caller's project asked is.

    """
    if caller.only is not None:
        return answer == caller.only
    if not caller.sees(project):
        return False
    return others or caller.may("admin") or key_id == caller.key_id
