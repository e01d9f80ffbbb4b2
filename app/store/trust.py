"""Whose grades count: a key is ordinary, trusted or quarantined; and how far keys agree with those that are trusted.

A grade by a key in quarantine is kept and shown and makes no reward, neither in learning nor in a trial, until the key
is released: nothing is lost. What was learned from it already is said by lineage (`app.store.lineage`). A trusted key
is the measure of the others: its own grades, and those of the graders that its requests named. Leaves out keys as
such (`app.store.keys`) and a key's share of a batch (`app.store.key_quota`).
"""

from dataclasses import dataclass
from typing import Final, Literal
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.store.grades import note_graded
from app.store.keys import locked
from app.store.tables import ApiKey, Grade

Trust = Literal["ordinary", "trusted", "quarantined"]

BATCH: Final = 500  # answers counted again in one statement
NEWEST: Final = 50_000  # entries of the ledger that agreement is measured on

AGREEMENT: Final = text("""
    WITH latest AS (
        SELECT DISTINCT ON (interaction_id, grader_kind, grader_id) interaction_id, api_key_id, source, state, value
        FROM grades
        WHERE entry > (SELECT coalesce(max(entry), 0) FROM grades) - :newest AND counts
          AND state IN ('graded', 'retracted') AND credit IS NULL
        ORDER BY interaction_id, grader_kind, grader_id, entry DESC
    ),
    word AS (
        SELECT latest.*, coalesce(grader.trust, CASE source WHEN 'scoped' THEN asker.trust END) = 'trusted' AS trusted
        FROM latest
        JOIN interactions ON interactions.id = interaction_id
        LEFT JOIN api_keys AS grader ON grader.id = latest.api_key_id
        LEFT JOIN api_keys AS asker ON asker.id = interactions.api_key_id
        WHERE latest.state = 'graded'
    ),
    measure AS (SELECT interaction_id, avg(value) AS value FROM word WHERE trusted GROUP BY interaction_id)
    SELECT
        api_keys.id, api_keys.trust, count(*) AS answers,
        avg(abs(word.value - measure.value)) AS difference,
        avg((abs(word.value - measure.value) > :half)::int) AS disagreeing
    FROM word
    JOIN measure USING (interaction_id)
    JOIN api_keys ON api_keys.id = word.api_key_id
    WHERE api_keys.trust <> 'trusted' AND coalesce(api_keys.project_id = :project, true)
    GROUP BY api_keys.id
    ORDER BY disagreeing DESC, answers DESC, api_keys.id
""")


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a key's grades compare with the mean of trusted grades of the same answers."""

    key_id: str
    trust: str
    answers: int  # graded by both, >= 1
    difference: float  # mean of |its grade - theirs|, in the unit of grades
    disagreeing: float  # share of answers where that is more than half the range of rewards


def set_trust(
    session: Session, key_id: str, trust: Trust, actor: str, reason: str, project: str | None = None
) -> ApiKey:
    """Change what a key's grades count for, and count again what it graded; the same again changes nothing.

    Its row is locked meanwhile, so that no grade of it is written in between. `project`: only a key of this project.

    Raises:
        NotFound: there is no such key.

    """
    key = locked(session, key_id, project)
    if key.trust == trust:
        return key
    again = "quarantined" in (key.trust, trust)
    key.trust, key.trust_at, key.trust_by, key.trust_reason = trust, func.now(), actor, reason
    session.flush()
    if again:
        count_again(session, key_id)
    session.refresh(key)
    return key


def count_again(session: Session, key_id: str) -> None:
    """Bring the rewards of all answers that a key graded up to date."""
    last: UUID | None = None
    while True:
        query = select(Grade.interaction_id).where(Grade.api_key_id == key_id).distinct()
        query = query.order_by(Grade.interaction_id).limit(BATCH)
        ids = list(session.scalars(query if last is None else query.where(Grade.interaction_id > last)))
        if not ids:
            return
        note_graded(session, *ids)
        last = ids[-1]


def agreement(session: Session, low: float, high: float, project: str | None = None) -> list[Agreement]:
    """Compare keys with trusted ones over the newest grades, those first that disagree most.

    Args:
        session: a transaction.
        low: lowest reward there is.
        high: highest reward there is.
        project: whose keys are compared; None: all.

    """
    rows = session.execute(AGREEMENT, {"newest": NEWEST, "half": (high - low) / 2, "project": project})
    return [Agreement(row.id, row.trust, row.answers, float(row.difference), float(row.disagreeing)) for row in rows]
