"""What operators did: who, what, to which thing, when, how it ended, under which request.

Over HTTP an entry is committed before the action begins, and its outcome after: an action that cannot be written down
does not happen, and one that a crash cut off stands there without an outcome. At the command line it commits with the
action. Leaves out what is an operator's action (`app.api.door.audit`).
"""

from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.store.tenants import AuditEntry


def begin(session: Session, actor: str, project: str | None, action: str, request_id: str | None) -> UUID:
    """Write down what somebody is about to do; returns the entry's id."""
    row = AuditEntry(actor=actor, project_id=project, action=action, request_id=request_id)
    session.add(row)
    session.flush()
    return row.id


def end(session: Session, entry_id: UUID, outcome: str, target: str | None) -> None:
    """Write down how it ended."""
    ended = update(AuditEntry).where(AuditEntry.id == entry_id).values(outcome=outcome, target=target)
    session.execute(ended.execution_options(synchronize_session=False))


def done(session: Session, actor: str, action: str, target: str | None = None) -> None:
    """Write down what was done at the command line, in the transaction that does it."""
    session.add(AuditEntry(actor=actor, action=action, target=target, outcome="done"))
    session.flush()


def list_audit(
    session: Session, *, project: str | None = None, limit: int = 100, after: UUID | None = None
) -> list[AuditEntry]:
    """List entries, the newest first; of one project's keys, or all (None)."""
    query = select(AuditEntry).order_by(AuditEntry.id.desc()).limit(limit)
    if project is not None:
        query = query.where(AuditEntry.project_id == project)
    return list(session.scalars(query if after is None else query.where(AuditEntry.id < after)))
