"""The review queue: one answer at a time, graded with a key on the keyboard; ungraded ones, or disputed ones.

Grades are given through the API (`answers.graded`), so they are those of any client. Leaves out the queries
(`app.store.console_search`).
"""

from dataclasses import dataclass
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Depends, Request
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.api.console.pages.answers import graded, known, messages_of, seen_by
from app.api.console.pages.forms import ProvenForm
from app.api.console.pages.rendering import page
from app.api.console.pages.routes import pages
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.server import ServerDep
from app.store.console_search import next_disputed, next_ungraded
from app.store.grades import ledger
from app.store.interactions import Filters
from app.store.tables import Grade, Interaction

router = pages()

MayGrade = Annotated[Caller, Depends(require("grade"))]
Queue = Literal["ungraded", "disputed"]


@dataclass(frozen=True, slots=True)
class Card:
    """An answer to look at."""

    row: Interaction
    messages: list[dict[str, str]]
    ledger: list[Grade]  # what was said of it so far


@router.get("/console/review")
async def review(
    request: Request, server: ServerDep, caller: MayGrade, queue: Queue = "ungraded", after: str | None = None
) -> Response:
    """Show the first answer of the queue, or, as a part of the page, the one after another."""
    return await shown(request, server, caller, queue, None if after is None else known(after), "")


@router.post("/console/review/{answer_id}")
async def grade(
    request: Request, answer_id: str, server: ServerDep, caller: MayGrade, form: ProvenForm, queue: Queue = "ungraded"
) -> Response:
    """Grade an answer and show the next one."""
    words = await graded(request, answer_id, form)
    return await shown(request, server, caller, queue, known(answer_id), words)


async def shown(
    request: Request, server: ServerDep, caller: Caller, queue: Queue, after: UUID | None, words: str
) -> Response:
    """Show the next answer."""
    card = await server.control.run(lambda session: next_card(session, caller, queue, after))
    part = "hx-request" in request.headers
    return page(request, "_card.html" if part else "review.html", card=card, queue=queue, words=words)


def next_card(session: Session, caller: Caller, queue: Queue, after: UUID | None) -> Card | None:
    """Find what to look at next."""
    filters = seen_by(caller, Filters())
    row = (next_disputed if queue == "disputed" else next_ungraded)(session, filters, after)
    return None if row is None else Card(row, messages_of(row), ledger(session, row.id, limit=50))
