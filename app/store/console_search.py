"""Answers looked for by what a person knows of them: words, a session, a grader, a worth; and those to review.

Every search is one of `app.store.interactions`' filters, which say whose answers may be seen, with more conditions over
a bounded number of the newest answers that the filters find. Leaves out showing them.
"""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import ColumnElement, Uuid, any_, func, literal, or_, select
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from app.store.base import AnyText
from app.store.grades import LATEST, Reward, rewards
from app.store.interactions import Filters, conditions, last_looked_at
from app.store.session_tables import ClientSession
from app.store.tables import Grade, Interaction, StoredRequest

LOOKED_AT: Final = 5_000  # newest answers that a search looks through
DISPUTE: Final = 0.5  # difference of two graders' values from which they disagree
TO_REVIEW: Final = 1_000  # newest graded answers among which disputed ones are looked for
QUEUED: Final = 20_000  # newest answers among which ungraded ones are looked for
LONGEST_WORDS: Final = 200  # characters


@dataclass(frozen=True, slots=True)
class Search:
    """What a person knows of an answer; None and empty leave a condition out."""

    words: str = ""  # in the prompt or the answer, in any case
    session_id: UUID | None = None
    session_name: str = ""  # as the client calls it
    grader: str = ""  # kind of a grader that said something
    least: float | None = None  # reward of at least
    most: float | None = None  # reward of at most
    corrected: bool = False  # whether somebody said what it should have been

    @property
    def is_plain(self) -> bool:
        """Whether the filters alone say it."""
        return self == Search()


@dataclass(frozen=True, slots=True)
class Found:
    """A page of answers, the newest first."""

    items: tuple[tuple[Interaction, Reward | None], ...]
    next_after: UUID | None  # where the next page begins; None: this was the last
    looked_at: int | None  # how many answers were looked through at most; None: all that there are


def search(session: Session, filters: Filters, more: Search, *, limit: int = 30, after: UUID | None = None) -> Found:
    """Look for answers.

    Args:
        session: a transaction.
        filters: whose answers, and what the API's own listing can be asked for.
        more: other conditions.
        limit: answers of a page.
        after: the id the page before ended with.

    """
    where = list(conditions(filters))
    if after is not None:
        where.append(Interaction.id < after)
    last, _ = last_looked_at(session, filters, after)
    if last is not None:
        where.append(Interaction.id >= last)
    query = select(Interaction).where(*where)
    bounded = not more.is_plain and more.session_id is None
    if bounded:
        query = select(Interaction).where(
            Interaction.id.in_(select(Interaction.id).where(*where).order_by(Interaction.id.desc()).limit(LOOKED_AT))
        )
    query = query.where(*extra(more)).order_by(Interaction.id.desc()).limit(limit + 1)
    rows = list(session.scalars(query))
    shown = rows[:limit]
    worth = rewards(session, [row.id for row in shown])
    items = tuple((row, worth.get(row.id)) for row in shown)
    return Found(items, shown[-1].id if len(rows) > limit else None, LOOKED_AT if bounded else None)


def extra(more: Search) -> list[ColumnElement[bool]]:
    """Say in SQL what the filters do not know."""
    found: list[ColumnElement[bool]] = []
    if more.words:
        pattern = f"%{escaped(more.words[:LONGEST_WORDS])}%"
        prompt = (
            select(StoredRequest.prompts[Interaction.prompt_index + 1])
            .where(StoredRequest.id == Interaction.request_id)
            .scalar_subquery()
        )
        like = literal(pattern, AnyText())
        found.append(or_(Interaction.answer.ilike(like, escape="\\"), prompt.ilike(like, escape="\\")))
    if more.session_id is not None:
        found.append(Interaction.session_id == more.session_id)
    if more.session_name:
        named = select(ClientSession.id).where(ClientSession.name == more.session_name)
        found.append(Interaction.session_id.in_(named))
    said = select(Grade.id).where(Grade.interaction_id == Interaction.id)
    if more.grader:
        found.append(said.where(Grade.grader_kind == more.grader).exists())
    if more.corrected:
        found.append(said.where(Grade.correction.is_not(None)).exists())
    if more.least is not None:
        found.append(Interaction.reward >= more.least)
    if more.most is not None:
        found.append(Interaction.reward <= more.most)
    return found


def escaped(words: str) -> str:
    r"""Write words so that LIKE takes them as they are: `50%` is `50\%`."""
    return words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def next_ungraded(session: Session, filters: Filters, skipped_to: UUID | None) -> Interaction | None:
    """Find the newest answer, before one that was skipped, that nobody graded and no grader of this server will."""
    where = conditions(filters)
    if skipped_to is not None:
        where.append(Interaction.id < skipped_to)
    newest = select(Interaction.id).where(*where).order_by(Interaction.id.desc()).limit(QUEUED)
    waits = Interaction.graded_at.is_(None) & Interaction.grading_state.in_(("none", "failed")) & ~Interaction.claimed
    query = select(Interaction).where(Interaction.id.in_(newest), waits).order_by(Interaction.id.desc()).limit(1)
    return session.scalar(query)


def next_disputed(session: Session, filters: Filters, skipped_to: UUID | None) -> Interaction | None:
    """Find the newest answer, before one that was skipped, of which its graders think differently."""
    where = [*conditions(filters), Interaction.graded_at.is_not(None)]
    if skipped_to is not None:
        where.append(Interaction.id < skipped_to)
    newest = select(Interaction.id).where(*where).order_by(Interaction.id.desc()).limit(TO_REVIEW)
    ids = list(session.scalars(newest))
    apart = func.max(LATEST.c.value) - func.min(LATEST.c.value)
    disputed = (
        select(LATEST.c.interaction_id)
        .where(LATEST.c.interaction_id == any_(literal(ids, ARRAY(Uuid))))
        .group_by(LATEST.c.interaction_id)
        .having(apart >= DISPUTE)
        .order_by(LATEST.c.interaction_id.desc())
        .limit(1)
    )
    found = session.scalar(disputed)
    return None if found is None else session.get(Interaction, found)
