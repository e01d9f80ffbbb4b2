"""Counts that cost the same however much there is: answers, grading states, grades, what was learned and skipped.

Triggers of the schema add to `tallies` in the transaction that writes the rows, so a count is as true as the rows are,
whoever writes them. Each database session adds to rows of its own and waits for nobody; those of sessions that ended
are folded together now and then. Rows written with triggers switched off (`session_replication_role`) are not counted.
Leaves out the triggers themselves (`migrations`).
"""

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.store.locks import Lock, hold
from app.store.tables import Tally

FOLD = text(
    """
    WITH ended AS (
        DELETE FROM tallies
        WHERE backend <> 0 AND backend NOT IN (SELECT pid FROM pg_stat_activity WHERE pid IS NOT NULL)
        RETURNING what, name, count
    )
    INSERT INTO tallies AS total (what, name, backend, count)
    SELECT what, name, 0, sum(count) FROM ended GROUP BY what, name ORDER BY what, name
    ON CONFLICT (what, name, backend) DO UPDATE SET count = total.count + excluded.count
    """
)


def counts(session: Session, what: str) -> dict[str, int]:
    """Read the counts of one kind by name; those that are zero are left out."""
    total = func.sum(Tally.count)
    query = select(Tally.name, total).where(Tally.what == what).group_by(Tally.name).having(total != 0)
    return {name: int(count) for name, count in session.execute(query.order_by(Tally.name))}


def fold(session: Session) -> None:
    """Add up what sessions that ended have counted."""
    hold(session, Lock.FOLD)
    session.execute(FOLD)
