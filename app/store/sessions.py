"""Sessions: turns that belong together, found by the client's name for them, numbered as they are committed.

A turn is a response: its choices, drawn in parallel, share its number. Numbers follow the order of commits, because
that is the only order that two servers agree on: the session's row is locked from the numbering to the commit. A name
belongs to the key that used it. Leaves out grades of sessions (`app.store.episodes`) and their removal
(`app.store.removal`, `app.store.erasure`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.errors import Conflict, NotFound
from app.identifiers import read, uuid7
from app.store.base import AnyText
from app.store.interactions import bytes_of
from app.store.session_tables import ClientSession
from app.store.tables import ApiKey, Grade, Interaction, StoredRequest, StoredRollout

ID_PREFIX: Final = "sess_"
TRIES: Final = 3  # a session may be removed between being found and being locked
TURNS_LOOKED_AT: Final = 64  # latest turns among which the one that a prompt goes on from is looked for


@dataclass(frozen=True, slots=True)
class Former:
    """A recorded turn that a prompt begins with."""

    interaction_id: UUID
    turn: int  # its number
    prompt_text: str  # as the model saw it
    answer: str  # as it was shown
    stopped: bool  # whether it ended by itself, so that its last token may have no text
    payload: bytes  # its rollout


def join(session: Session, key_id: str, name: str, response: str, opening: bytes) -> tuple[UUID, int]:
    """Give a turn its number, and begin its session where there is none; choices of one response are one turn.

    Args:
        session: a transaction; the session's row is locked until it ends.
        key_id: the key that asks.
        name: the client's name for the session, or its id.
        response: id under which the turn's choices are stored.
        opening: SHA-256 of the prompt and task, kept where this is the first turn.

    Returns:
        The session's id, and the turn's number, from 1.

    Raises:
        NotFound: an id that is no session of this key.

    """
    row = locked(session, key_id, name, opening)
    mine = select(Interaction.turn).where(Interaction.session_id == row.id, Interaction.completion_id == response)
    known = session.scalar(mine.limit(1))
    if known is not None:
        return row.id, known
    row.turns += 1
    row.last_turn_at = func.now()
    session.flush()
    return row.id, row.turns


def locked(session: Session, key_id: str, name: str, opening: bytes) -> ClientSession:
    """Find a session, or begin it, and hold it until the transaction ends."""
    query = select(ClientSession).where(named(key_id, name)).with_for_update(key_share=True)
    query = query.execution_options(populate_existing=True)
    for _ in range(TRIES):
        found = session.scalar(query)
        if found is not None:
            return found
        if name.startswith(ID_PREFIX):
            raise NotFound(f"There is no session {name[:80]}.", param="session_id")
        fresh = insert(ClientSession).values(id=uuid7(), api_key_id=key_id, name=name, opening=opening)
        session.execute(fresh.on_conflict_do_nothing())
    raise Conflict("This session is being removed; try again.", retry_after=1)


def named(key_id: str, name: str) -> ColumnElement[bool]:
    """Say in SQL which session a key means: `sess_...` is an id, anything else a name."""
    mine = ClientSession.api_key_id == key_id
    if not name.startswith(ID_PREFIX):
        return mine & (ClientSession.name == name)
    try:
        return mine & (ClientSession.id == read("sess", name))
    except ValueError:
        return literal(False)


def find(session: Session, key_id: str, name: str) -> ClientSession | None:
    """Find a key's session by its name or its id."""
    return session.scalar(select(ClientSession).where(named(key_id, name)))


def page(
    session: Session,
    *,
    key_id: str | None,
    project_id: str | None = None,
    name: str | None = None,
    limit: int,
    after: UUID | None = None,
) -> list[ClientSession]:
    """List sessions, the newest first: of one key, of a project or of all, perhaps of one name, those before an id."""
    query = select(ClientSession).order_by(ClientSession.id.desc()).limit(limit)
    if key_id is not None:
        query = query.where(ClientSession.api_key_id == key_id)
    if project_id is not None:
        mine = select(ApiKey.id).where(ApiKey.project_id == project_id)
        query = query.where(ClientSession.api_key_id.in_(mine))
    if name is not None:
        query = query.where(ClientSession.name == name)
    return list(session.scalars(query if after is None else query.where(ClientSession.id < after)))


def answers(session: Session, session_id: UUID, *, turns: int | None = None, after: int = 0) -> list[Interaction]:
    """Read the answers of a session in the order of turns and choices: of all turns, or of some after one."""
    query = (
        select(Interaction)
        .where(Interaction.session_id == session_id, Interaction.turn > after)
        .order_by(Interaction.turn, Interaction.completion_id, Interaction.choice)
    )
    return list(session.scalars(query if turns is None else query.where(Interaction.turn <= after + turns)))


def ledgers(session: Session, ids: Sequence[UUID]) -> dict[UUID, list[Grade]]:
    """Read the entries on several answers in the order of writing."""
    found: dict[UUID, list[Grade]] = {one: [] for one in ids}
    for grade in session.scalars(select(Grade).where(Grade.interaction_id.in_(ids)).order_by(Grade.entry)):
        found[grade.interaction_id].append(grade)
    return found


def former(session: Session, key_id: str, name: str, text: str) -> Former | None:
    """Find the latest turn of a session whose prompt and answer, as the model saw them, begin this text.

    The texts are compared where they are stored; of the turns only the one that is found is read.
    """
    prompt = StoredRequest.prompts[Interaction.prompt_index + 1]
    begun = func.starts_with(literal(text, AnyText()), prompt + Interaction.answer)
    latest = (
        select(Interaction.id)
        .join(ClientSession, ClientSession.id == Interaction.session_id)
        .where(named(key_id, name), Interaction.turn > ClientSession.turns - TURNS_LOOKED_AT)
    )
    query = (
        select(Interaction, StoredRollout)
        .join(StoredRequest, StoredRequest.id == Interaction.request_id)
        .join(StoredRollout, StoredRollout.interaction_id == Interaction.id)
        .where(Interaction.id.in_(latest), begun)
        .order_by(func.length(prompt).desc(), Interaction.turn.desc(), Interaction.choice)
        .limit(1)
    )
    row = session.execute(query).one_or_none()
    if row is None:
        return None
    one, trace = row[0], row[1]
    payload = bytes_of(trace)
    if payload is None:
        return None
    assert one.turn is not None, "an answer of a session has a turn"
    return Former(one.id, one.turn, one.prompt_text, one.answer, one.finish_reason == "stop", payload)


@dataclass(frozen=True, slots=True)
class Spoken:
    """What an answer of a session was, word for word."""

    completion_id: str  # of its response, which with its choice names its calls
    choice: int
    turn: int  # its number
    answer: str  # as it was drawn, its calls in it


def spoken(session: Session, key_id: str, name: str, meant: Callable[[str, int], bool]) -> list[Spoken]:
    """Read answers of a session's latest turns, those whose response and choice are meant, the first turn first."""
    latest = (
        select(Interaction.id, Interaction.completion_id, Interaction.choice)
        .join(ClientSession, ClientSession.id == Interaction.session_id)
        .where(named(key_id, name), Interaction.turn > ClientSession.turns - TURNS_LOOKED_AT)
    )
    ids = [one for one, response, choice in session.execute(latest) if meant(response, choice)]
    query = select(Interaction.completion_id, Interaction.choice, Interaction.turn, Interaction.answer)
    found = session.execute(query.where(Interaction.id.in_(ids)).order_by(Interaction.turn)) if ids else ()
    return [Spoken(response, choice, turn or 0, answer) for response, choice, turn, answer in found]
