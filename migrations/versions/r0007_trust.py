"""Keys are ordinary, trusted or quarantined; what a key in quarantine says makes no reward. Corrections have an index.

Revision ID: 0007
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

UNQUARANTINED = "NOT EXISTS (SELECT 1 FROM api_keys WHERE id = grades.api_key_id AND trust = 'quarantined')"
LATEST = """
    CREATE VIEW latest_grades AS
    SELECT id, interaction_id, grader_kind, grader_id, api_key_id, value, created_at
    FROM (
        SELECT DISTINCT ON (interaction_id, grader_kind, grader_id) *
        FROM grades
        WHERE state IN ('graded', 'retracted') AND {condition}
        ORDER BY interaction_id, grader_kind, grader_id, entry DESC
    ) AS latest
    WHERE state = 'graded' AND counts
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
CORRECTIONS = """
    CREATE VIEW latest_corrections AS
    SELECT interaction_id, grader_kind, grader_id, api_key_id, correction, entry, created_at
    FROM (
        SELECT DISTINCT ON (interaction_id, grader_kind, grader_id) *
        FROM grades
        WHERE (state = 'retracted' OR (state IN ('graded', 'corrected') AND correction IS NOT NULL)) AND {condition}
        ORDER BY interaction_id, grader_kind, grader_id, entry DESC
    ) AS latest
    WHERE state <> 'retracted' AND counts
"""
WITHOUT_VIEWS = ("DROP VIEW effective_grades", "DROP VIEW latest_grades", "DROP VIEW latest_corrections")

UP = (
    """
    ALTER TABLE api_keys
        ADD COLUMN trust TEXT DEFAULT 'ordinary' NOT NULL,
        ADD COLUMN trust_at TIMESTAMP WITH TIME ZONE,
        ADD COLUMN trust_by TEXT,
        ADD COLUMN trust_reason TEXT,
        ADD CONSTRAINT ck_api_keys_trust_known CHECK (trust IN ('ordinary', 'trusted', 'quarantined'))
    """,
    "CREATE INDEX ix_grades_api_key_id ON grades (api_key_id, interaction_id) WHERE api_key_id IS NOT NULL",
    "CREATE INDEX ix_grades_corrected ON grades (entry) WHERE correction IS NOT NULL",
    *WITHOUT_VIEWS,
    LATEST.format(condition=UNQUARANTINED),
    EFFECTIVE,
    CORRECTIONS.format(condition=UNQUARANTINED),
)

DOWN = (
    *WITHOUT_VIEWS,
    LATEST.format(condition="true"),
    EFFECTIVE,
    CORRECTIONS.format(condition="true"),
    # What keys in quarantine said counts again.
    """
    UPDATE interactions SET graded_at = effective.first_graded_at, reward = effective.reward
    FROM effective_grades AS effective
    WHERE effective.interaction_id = interactions.id AND interactions.id IN (
        SELECT interaction_id FROM grades JOIN api_keys ON api_keys.id = api_key_id WHERE trust = 'quarantined'
    )
    """,
    "DROP INDEX ix_grades_corrected",
    "DROP INDEX ix_grades_api_key_id",
    "ALTER TABLE api_keys DROP COLUMN trust, DROP COLUMN trust_at, DROP COLUMN trust_by, DROP COLUMN trust_reason",
)


def upgrade() -> None:
    """Let keys be trusted or not."""
    for step in UP:
        op.execute(step)


def downgrade() -> None:
    """Go back; every key is as good as another."""
    for step in DOWN:
        op.execute(step)
