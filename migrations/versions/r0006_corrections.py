"""A correction without a number is a grade too: it makes an answer learnable, and has no reward.

Revision ID: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

UP = (
    "ALTER TABLE grades DROP CONSTRAINT ck_grades_state_known",
    """
    ALTER TABLE grades ADD CONSTRAINT ck_grades_state_known
        CHECK (state IN ('graded', 'corrected', 'failed', 'retracted'))
    """,
    """
    ALTER TABLE grades ADD CONSTRAINT ck_grades_corrected_says_how
        CHECK (state <> 'corrected' OR correction IS NOT NULL)
    """,
    # The latest correction by each grader; a later number by the same grader leaves it, a retraction takes it back.
    """
    CREATE VIEW latest_corrections AS
    SELECT interaction_id, grader_kind, grader_id, api_key_id, correction, entry, created_at
    FROM (
        SELECT DISTINCT ON (interaction_id, grader_kind, grader_id) *
        FROM grades
        WHERE state = 'retracted' OR (state IN ('graded', 'corrected') AND correction IS NOT NULL)
        ORDER BY interaction_id, grader_kind, grader_id, entry DESC
    ) AS latest
    WHERE state <> 'retracted' AND counts
    """,
)

DOWN = (
    "DROP VIEW latest_corrections",
    "ALTER TABLE grades DROP CONSTRAINT ck_grades_corrected_says_how",
    "UPDATE grades SET state = 'failed' WHERE state = 'corrected'",
    "ALTER TABLE grades DROP CONSTRAINT ck_grades_state_known",
    "ALTER TABLE grades ADD CONSTRAINT ck_grades_state_known CHECK (state IN ('graded', 'failed', 'retracted'))",
)


def upgrade() -> None:
    """Let corrections stand alone."""
    for step in UP:
        op.execute(step)


def downgrade() -> None:
    """Go back; a correction without a number says nothing any more."""
    for step in DOWN:
        op.execute(step)
