"""Finding the session that an id or a name in a path means, and who may see it.

An id (`sess_...`) means one session; a name means the caller's own session of that name. Where LEPO_REDACT takes
something out of a name, what is left and a digest stand for it, everywhere.
"""

from sqlalchemy.orm import Session

from app.api.door.answer_ids import project
from app.api.door.callers import Caller
from app.errors import NotFound
from app.identifiers import read
from app.redaction.hook import Redactor
from app.store.session_tables import ClientSession
from app.store.sessions import ID_PREFIX, find


def known_as(redactor: Redactor, caller: Caller, text: str) -> str:
    """Write the name of a session as it is stored; ids stay.

    Raises:
        Unavailable: it could not be redacted.

    """
    return text if text.startswith(ID_PREFIX) else redactor.name(text, caller.key_id)


def own_session(session: Session, text: str, caller: Caller) -> ClientSession:
    """Find a session of the caller's key; an admin key reaches every session of its project by its id.

    Raises:
        NotFound: there is none, or it is another's. Whether it exists is not said.

    """
    return found_session(session, text, caller, others=caller.may("admin"))


def gradable_session(session: Session, text: str, caller: Caller, *, others: bool) -> ClientSession:
    """Find a session that the caller may grade; with `others` (`LEPO_GRADE_OTHERS`) another key's of its project too.

    Raises:
        NotFound: there is none that it may grade.

    """
    return found_session(session, text, caller, others=others or caller.may("admin"))


def found_session(session: Session, text: str, caller: Caller, *, others: bool) -> ClientSession:
    """Find a session of the caller's key; with `others` one of another key of its project too, by its id.

    Raises:
        NotFound: there is none.

    """
    found = by_id(session, text) if others else None
    if found is not None and not caller.sees(project(session, found.api_key_id)):
        found = None
    found = found or find(session, caller.key_id, text)
    if found is None:
        raise NotFound(f"There is no session {text[:80]}.")
    return found


def by_id(session: Session, text: str) -> ClientSession | None:
    """Find a session by its id, whosever it is."""
    try:
        return session.get(ClientSession, read("sess", text)) if text.startswith(ID_PREFIX) else None
    except ValueError:
        return None
