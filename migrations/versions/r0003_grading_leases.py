"""Grading under a lease, served by two small indexes; and what class a grade is of.

What counted until now goes on counting: the classes of older grades are filled in, their effect is not changed.

Revision ID: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

LATEST = """
    CREATE VIEW latest_grades AS
    SELECT id, interaction_id, grader_kind, grader_id, api_key_id, value, created_at
    FROM (
        SELECT DISTINCT ON (interaction_id, grader_kind, grader_id) *
        FROM grades
        WHERE state IN ('graded', 'retracted')
        ORDER BY interaction_id, grader_kind, grader_id, entry DESC
    ) AS latest
    WHERE {condition}
"""
EFFECTIVE = """
    CREATE VIEW effective_grades AS
    SELECT
        interaction_id,
        avg(value) AS reward,
        count(*) AS graders,
        min(created_at) AS first_graded_at,
        max(created_at) AS last_graded_at
    FROM latest_grades
    GROUP BY interaction_id
"""

UP = (
    "ALTER TABLE interactions ADD COLUMN grading_until TIMESTAMP WITH TIME ZONE",
    "ALTER TABLE interactions ADD COLUMN grader_source TEXT DEFAULT 'scoped' NOT NULL",
    """
    ALTER TABLE interactions ADD CONSTRAINT ck_interactions_grader_source_known
        CHECK (grader_source IN ('scoped', 'request'))
    """,
    """
    UPDATE interactions SET grader_source = 'request'
    FROM api_keys
    WHERE api_keys.id = api_key_id AND grader IS NOT NULL AND NOT scopes && ARRAY['grade', 'admin']
    """,
    # One whose grader failed before is due at once.
    "UPDATE interactions SET grading_until = now() WHERE grading_state = 'pending' AND grading_attempts > 0",
    "DROP INDEX ix_interactions_pending",
    """
    CREATE INDEX ix_interactions_grading_untried ON interactions (created_at)
        WHERE grading_state = 'pending' AND grading_attempts = 0
    """,
    """
    CREATE INDEX ix_interactions_grading_due ON interactions (grading_until)
        WHERE grading_state = 'pending' AND grading_attempts > 0
    """,
    "ALTER TABLE grades ADD COLUMN source TEXT DEFAULT 'caller' NOT NULL",
    "ALTER TABLE grades ADD COLUMN counts BOOLEAN DEFAULT true NOT NULL",
    "ALTER TABLE grades ADD CONSTRAINT ck_grades_source_known CHECK (source IN ('caller', 'scoped', 'request'))",
    """
    UPDATE grades SET source = grader_source
    FROM interactions
    WHERE interactions.id = interaction_id AND grader IS NOT NULL AND grades.api_key_id IS NULL
    """,
    "DROP VIEW effective_grades",
    "DROP VIEW latest_grades",
    LATEST.format(condition="state = 'graded' AND counts"),
    EFFECTIVE,
)

DOWN = (
    "DROP VIEW effective_grades",
    "DROP VIEW latest_grades",
    "ALTER TABLE grades DROP COLUMN counts, DROP COLUMN source",
    LATEST.format(condition="state = 'graded'"),
    EFFECTIVE,
    "DROP INDEX ix_interactions_grading_due",
    "DROP INDEX ix_interactions_grading_untried",
    "CREATE INDEX ix_interactions_pending ON interactions (created_at) WHERE grading_state = 'pending'",
    "ALTER TABLE interactions DROP COLUMN grader_source, DROP COLUMN grading_until",
)


def upgrade() -> None:
    """Add leases and classes."""
    for step in UP:
        op.execute(step)


def downgrade() -> None:
    """Go back; what did not count counts again."""
    for step in DOWN:
        op.execute(step)
