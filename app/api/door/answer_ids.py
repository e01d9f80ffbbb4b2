"""Finding the answer that an id in a path means: `int_...`, or a response's id where it has one answer.

Leaves out who may see it (the routes).
"""

from collections.abc import Container

from sqlalchemy.orm import Session

from app.api.door.callers import Caller
from app.errors import BadRequest, Conflict, Forbidden, NotFound
from app.identifiers import read
from app.store.interactions import choices, get_interaction
from app.store.tables import Interaction


def find(session: Session, text: str, choice: int | None, underway: Container[str]) -> Interaction:
    """Find an answer.

    Args:
        session: a transaction.
        text: `int_<32 hex>`, or a response's id.
        choice: which of a response's choices; needed when it has several.
        underway: responses whose answers this server is still writing.

    Raises:
        NotFound: there is none.
        Conflict: it is not finished yet.
        BadRequest: the response has several choices and none was named.

    """
    if text.startswith("int_"):
        try:
            return get_interaction(session, read("int", text))
        except ValueError as error:
            raise NotFound(f"There is no interaction {text[:80]}.") from error
    rows = {row.choice: row for row in choices(session, text)}
    several = any(row.group_size > 1 for row in rows.values())
    if choice is None and several:
        raise BadRequest("This response has several choices; name one by `choice`, or use its id.", param="choice")
    found = rows.get(choice or 0)
    if found is not None:
        return found
    if text in underway:
        raise Conflict("This answer is not finished yet; try again when it is.", code="not_finished", retry_after=1)
    raise NotFound(f"There is no answer {text[:80]}" + (f", choice {choice}." if choice else "."))


def own(interaction: Interaction, caller: Caller) -> Interaction:
    """Let a caller read its own answers; an admin key reads all.

    Raises:
        NotFound: it is another's. Whether it exists is not said.

    """
    if caller.may("admin") or interaction.api_key_id == caller.key_id:
        return interaction
    raise NotFound("There is no such interaction.")


def gradable(interaction: Interaction, caller: Caller, *, others: bool) -> Interaction:
    """Let a grading token reach its one answer only, and a key what it may grade.

    Args:
        interaction: the answer.
        caller: who wants to grade it, or to let another grade it.
        others: whether a key without the scope admin may grade what another key asked (`LEPO_GRADE_OTHERS`).

    Raises:
        Forbidden: the token is for another answer.
        NotFound: it is another's, and the service is not open to that. Whether it exists is not said.

    """
    if caller.only is not None:
        if caller.only != interaction.id:
            raise Forbidden("This grading token is for another answer.")
        return interaction
    return interaction if others else own(interaction, caller)
