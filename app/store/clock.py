"""The one clock that times are compared by: the database's. Those of servers and workers differ."""

from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session


def now(session: Session) -> datetime:
    """Read it; within a transaction SQL's `now()` stands still, and this does not."""
    read: datetime = session.scalars(select(func.clock_timestamp())).one()
    return read
