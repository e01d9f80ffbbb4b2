"""Sessions join turns; a grade of a session is shared among them by a rule, and each turn's share is in the ledger.

Revision ID: 0010
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

UNQUARANTINED = "NOT EXISTS (SELECT 1 FROM api_keys WHERE id = grades.api_key_id AND trust = 'quarantined')"
LATEST = """
    CREATE VIEW latest_grades AS
    SELECT id, interaction_id, grader_kind, grader_id, api_key_id, value, created_at{more}
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
WITHOUT_VIEWS = ("DROP VIEW effective_grades", "DROP VIEW latest_grades")

UP = (
    """
    CREATE TABLE sessions (
        id UUID NOT NULL,
        api_key_id TEXT NOT NULL,
        name TEXT NOT NULL,
        opening BYTEA NOT NULL,
        turns INTEGER DEFAULT 0 NOT NULL,
        credit TEXT DEFAULT 'all_turns' NOT NULL,
        discount DOUBLE PRECISION,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        last_turn_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_sessions PRIMARY KEY (id),
        CONSTRAINT uq_sessions_api_key_id_name UNIQUE (api_key_id, name),
        CONSTRAINT fk_sessions_api_key_id_api_keys FOREIGN KEY(api_key_id) REFERENCES api_keys (id),
        CONSTRAINT ck_sessions_credit_known CHECK (credit IN ('last_turn', 'all_turns', 'discounted')),
        CONSTRAINT ck_sessions_turns_counted CHECK (turns >= 0),
        CONSTRAINT ck_sessions_discounted_says_how CHECK ((credit = 'discounted') = (discount IS NOT NULL))
    )
    """,
    "CREATE INDEX ix_sessions_last_turn_at ON sessions (last_turn_at)",
    """
    CREATE TABLE session_grades (
        id UUID NOT NULL,
        entry BIGINT GENERATED ALWAYS AS IDENTITY NOT NULL,
        session_id UUID NOT NULL,
        state TEXT NOT NULL,
        value DOUBLE PRECISION,
        credit TEXT NOT NULL,
        discount DOUBLE PRECISION,
        through_turn INTEGER NOT NULL,
        grader_kind TEXT NOT NULL,
        grader_id TEXT NOT NULL,
        grader_version TEXT,
        comment TEXT,
        supersedes_id UUID,
        api_key_id TEXT,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_session_grades PRIMARY KEY (id),
        CONSTRAINT uq_session_grades_entry UNIQUE (entry),
        CONSTRAINT fk_session_grades_session_id_sessions
            FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE,
        CONSTRAINT fk_session_grades_supersedes_id_session_grades
            FOREIGN KEY(supersedes_id) REFERENCES session_grades (id) ON DELETE CASCADE,
        CONSTRAINT fk_session_grades_api_key_id_api_keys FOREIGN KEY(api_key_id) REFERENCES api_keys (id),
        CONSTRAINT ck_session_grades_state_known CHECK (state IN ('graded', 'retracted')),
        CONSTRAINT ck_session_grades_credit_known CHECK (credit IN ('last_turn', 'all_turns', 'discounted')),
        CONSTRAINT ck_session_grades_value_iff_graded CHECK ((state = 'graded') = (value IS NOT NULL)),
        CONSTRAINT ck_session_grades_value_finite CHECK (value NOT IN ('NaN', 'Infinity', '-Infinity')),
        CONSTRAINT ck_session_grades_discounted_says_how CHECK ((credit = 'discounted') = (discount IS NOT NULL)),
        CONSTRAINT ck_session_grades_through_counted CHECK (through_turn >= 0)
    )
    """,
    "CREATE INDEX ix_session_grades_ledger ON session_grades (session_id, grader_kind, grader_id, entry)",
    """
    ALTER TABLE interactions
        ADD COLUMN session_id UUID,
        ADD COLUMN turn INTEGER,
        ADD COLUMN follows_id UUID,
        ADD COLUMN credited BOOLEAN DEFAULT false NOT NULL,
        ADD CONSTRAINT fk_interactions_session_id_sessions FOREIGN KEY(session_id) REFERENCES sessions (id),
        ADD CONSTRAINT ck_interactions_turn_of_session CHECK ((session_id IS NULL) = (turn IS NULL))
    """,
    "CREATE INDEX ix_interactions_session ON interactions (session_id, turn) WHERE session_id IS NOT NULL",
    """
    ALTER TABLE grades
        ADD COLUMN session_grade_id UUID,
        ADD COLUMN credit DOUBLE PRECISION,
        ADD CONSTRAINT fk_grades_session_grade_id_session_grades
            FOREIGN KEY(session_grade_id) REFERENCES session_grades (id),
        ADD CONSTRAINT ck_grades_credit_of_session CHECK ((session_grade_id IS NULL) = (credit IS NULL))
    """,
    "CREATE INDEX ix_grades_session_grade_id ON grades (session_grade_id) WHERE session_grade_id IS NOT NULL",
    "CREATE INDEX ix_idempotency_keys_session ON idempotency_keys ((response ->> 'session_id'))",
    "ALTER TABLE erasures DROP CONSTRAINT ck_erasures_subject_known",
    """
    ALTER TABLE erasures ADD CONSTRAINT ck_erasures_subject_known
        CHECK (subject IN ('user', 'interaction', 'session'))
    """,
    *WITHOUT_VIEWS,
    LATEST.format(condition=UNQUARANTINED, more=", credit"),
    EFFECTIVE,
)

DOWN = (
    *WITHOUT_VIEWS,
    # What was said of a session is no grade of an answer.
    """
    CREATE TEMPORARY TABLE once_credited ON COMMIT DROP AS
        SELECT DISTINCT interaction_id AS id FROM grades WHERE credit IS NOT NULL
    """,
    "DELETE FROM grades WHERE credit IS NOT NULL",
    "ALTER TABLE grades DROP COLUMN session_grade_id, DROP COLUMN credit",
    LATEST.format(condition=UNQUARANTINED, more=""),
    EFFECTIVE,
    """
    UPDATE interactions SET
        graded_at = least(
            (SELECT first_graded_at FROM effective_grades WHERE interaction_id = interactions.id),
            (SELECT min(created_at) FROM latest_corrections WHERE interaction_id = interactions.id)
        ),
        reward = (SELECT reward FROM effective_grades WHERE interaction_id = interactions.id)
    WHERE id IN (SELECT id FROM once_credited)
    """,
    "UPDATE erasures SET subject = 'interaction' WHERE subject = 'session'",
    "ALTER TABLE erasures DROP CONSTRAINT ck_erasures_subject_known",
    "ALTER TABLE erasures ADD CONSTRAINT ck_erasures_subject_known CHECK (subject IN ('user', 'interaction'))",
    "DROP INDEX ix_idempotency_keys_session",
    """
    ALTER TABLE interactions
        DROP COLUMN session_id, DROP COLUMN turn, DROP COLUMN follows_id, DROP COLUMN credited
    """,
    "DROP TABLE session_grades",
    "DROP TABLE sessions",
)


def upgrade() -> None:
    """Let turns belong together."""
    for step in UP:
        op.execute(step)


def downgrade() -> None:
    """Go back; turns are answers again, and what was said of a whole session is forgotten."""
    for step in DOWN:
        op.execute(step)
