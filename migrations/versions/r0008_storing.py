"""A request is stored once for all its answers; rows are counted as they are written; a trace may be a file.

Revision ID: 0008

What earlier releases wrote is moved: the body, the grader and the metadata of a response's first answer become its
request, which has the id of that answer; answers to several prompts of one request share it.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

REQUESTS = (
    """
    CREATE TABLE requests (
        id UUID NOT NULL,
        body JSONB NOT NULL,
        prompts TEXT[] NOT NULL,
        grader JSONB,
        metadata JSONB,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_requests PRIMARY KEY (id)
    )
    """,
    "ALTER TABLE interactions ADD COLUMN request_id UUID, ADD COLUMN prompt_index INTEGER DEFAULT 0 NOT NULL",
    # A completion's id is chatcmpl-X, cmpl-X, or cmpl-X.1 for the second of several prompts; each with .shadow behind.
    """
    CREATE TEMPORARY TABLE moved ON COMMIT DROP AS
    SELECT
        id,
        first_value(id) OVER (PARTITION BY response ORDER BY part, id) AS request_id,
        (dense_rank() OVER (PARTITION BY response ORDER BY part) - 1)::integer AS prompt_index
    FROM (
        SELECT
            id,
            split_part(completion_id, '.', 1) AS response,
            regexp_replace(completion_id, '[.]shadow$', '') AS part
        FROM interactions
    ) AS named
    """,
    """
    INSERT INTO requests (id, body, prompts, grader, metadata, created_at)
    SELECT first.id, first.request, prompts.texts, first.grader, first.metadata, first.created_at
    FROM (
        SELECT request_id, array_agg(prompt_text ORDER BY prompt_index) AS texts
        FROM (
            SELECT DISTINCT ON (moved.request_id, moved.prompt_index)
                moved.request_id, moved.prompt_index, interactions.prompt_text
            FROM moved JOIN interactions ON interactions.id = moved.id
            ORDER BY moved.request_id, moved.prompt_index
        ) AS one
        GROUP BY request_id
    ) AS prompts JOIN interactions AS first ON first.id = prompts.request_id
    """,
    """
    UPDATE interactions SET request_id = moved.request_id, prompt_index = moved.prompt_index
    FROM moved WHERE moved.id = interactions.id
    """,
    """
    ALTER TABLE interactions
        ALTER COLUMN request_id SET NOT NULL,
        ADD CONSTRAINT fk_interactions_request_id_requests FOREIGN KEY (request_id) REFERENCES requests (id),
        DROP COLUMN request, DROP COLUMN prompt_text, DROP COLUMN grader, DROP COLUMN metadata
    """,
    "CREATE INDEX ix_interactions_request_id ON interactions (request_id)",
)

LISTINGS = (
    "DROP INDEX ix_interactions_checkpoint_id",
    "CREATE INDEX ix_interactions_policy_version ON interactions (policy_version, id)",
    "CREATE INDEX ix_interactions_shadow ON interactions (id) WHERE shadow_of IS NOT NULL",
)

TRACES = (
    """
    ALTER TABLE rollouts
        ALTER COLUMN payload DROP NOT NULL,
        ADD COLUMN address TEXT,
        ADD COLUMN sha256 BYTEA,
        ADD CONSTRAINT ck_rollouts_kept_in_one_place CHECK ((payload IS NULL) = (address IS NOT NULL)),
        ADD CONSTRAINT ck_rollouts_address_has_digest CHECK ((address IS NULL) = (sha256 IS NULL))
    """,
)

# What a row counts as: pairs of `what` and `name`, of the row alias `one`.
COUNTED = {
    "interactions": """(VALUES ('answers', ''), ('grading', nullif(one.grading_state, 'none')))""",
    "grades": """(VALUES ('grades', CASE WHEN one.state = 'graded' THEN one.grader_kind END))""",
    "claims": """(VALUES
        ('learned', CASE WHEN one.outcome = 'learned' THEN one.job_id::text END),
        ('skipped', CASE WHEN one.outcome = 'skipped' THEN one.reason END))""",
}
ADD = """
    INSERT INTO tallies AS mine (what, name, backend, count)
    SELECT kind.what, kind.name, pg_backend_pid(), sum(change)
    FROM ({rows}) AS one, LATERAL {counted} AS kind (what, name)
    WHERE kind.name IS NOT NULL
    GROUP BY kind.what, kind.name
    HAVING sum(change) <> 0
    ON CONFLICT (what, name, backend) DO UPDATE SET count = mine.count + excluded.count;
"""
ROWS = {
    "insert": "SELECT *, 1 AS change FROM added",
    "delete": "SELECT *, -1 AS change FROM removed",
    "update": "SELECT *, 1 AS change FROM added UNION ALL SELECT *, -1 AS change FROM removed",
}
SEEN = {
    "insert": "NEW TABLE AS added",
    "delete": "OLD TABLE AS removed",
    "update": "NEW TABLE AS added OLD TABLE AS removed",
}
FUNCTION = """
    CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NULL; END $$
"""
TRIGGER = """
    CREATE TRIGGER {name} AFTER {event} ON {table} REFERENCING {seen} FOR EACH STATEMENT EXECUTE FUNCTION {name}()
"""
# Updates of answers are many and seldom change what they count as: a condition on the row spares the others.
GRADING = """
    INSERT INTO tallies AS mine (what, name, backend, count)
    SELECT 'grading', name, pg_backend_pid(), change
    FROM (VALUES (OLD.grading_state, -1), (NEW.grading_state, 1)) AS kind (name, change)
    WHERE name <> 'none'
    ON CONFLICT (what, name, backend) DO UPDATE SET count = mine.count + excluded.count;
"""
COUNTED_WHEN = [(table, event) for table in COUNTED for event in ROWS if table == "claims" or event != "update"]


def tallies() -> list[str]:
    """Write the table of counts, what keeps it, and the counts of what is there."""
    steps = [
        """
        CREATE TABLE tallies (
            what TEXT NOT NULL,
            name TEXT NOT NULL,
            backend INTEGER NOT NULL,
            count BIGINT NOT NULL,
            CONSTRAINT pk_tallies PRIMARY KEY (what, name, backend)
        )
        """
    ]
    for table, event in COUNTED_WHEN:
        name = f"tally_{table}_{event}"
        body = ADD.format(rows=ROWS[event], counted=COUNTED[table])
        steps += [
            FUNCTION.format(name=name, body=body),
            TRIGGER.format(name=name, event=event, table=table, seen=SEEN[event]),
        ]
    steps += [
        FUNCTION.format(name="tally_grading", body=GRADING),
        """
        CREATE TRIGGER tally_grading AFTER UPDATE OF grading_state ON interactions FOR EACH ROW
        WHEN (OLD.grading_state <> NEW.grading_state) EXECUTE FUNCTION tally_grading()
        """,
    ]
    steps += [
        ADD.format(rows=f"SELECT *, 1 AS change FROM {table}", counted=counted).replace("pg_backend_pid()", "0")  # noqa: S608 - constants of this file
        for table, counted in COUNTED.items()
    ]
    return steps


DOWN = (
    *(f"DROP TRIGGER tally_{table}_{event} ON {table}" for table, event in COUNTED_WHEN),
    *(f"DROP FUNCTION tally_{table}_{event}()" for table, event in COUNTED_WHEN),
    "DROP TRIGGER tally_grading ON interactions",
    "DROP FUNCTION tally_grading()",
    "DROP TABLE tallies",
    # Traces in files are lost to it; their answers are then not learned from.
    "DELETE FROM rollouts WHERE payload IS NULL",
    """
    ALTER TABLE rollouts
        DROP CONSTRAINT ck_rollouts_kept_in_one_place, DROP CONSTRAINT ck_rollouts_address_has_digest,
        DROP COLUMN address, DROP COLUMN sha256, ALTER COLUMN payload SET NOT NULL
    """,
    "DROP INDEX ix_interactions_shadow",
    "DROP INDEX ix_interactions_policy_version",
    "CREATE INDEX ix_interactions_checkpoint_id ON interactions (checkpoint_id, id)",
    """
    ALTER TABLE interactions
        ADD COLUMN request JSONB, ADD COLUMN prompt_text TEXT, ADD COLUMN grader JSONB, ADD COLUMN metadata JSONB
    """,
    """
    UPDATE interactions SET request = asked.body, prompt_text = asked.prompts[prompt_index + 1],
        grader = asked.grader, metadata = asked.metadata
    FROM requests AS asked WHERE asked.id = request_id
    """,
    "DROP INDEX ix_interactions_request_id",
    """
    ALTER TABLE interactions
        DROP COLUMN request_id, DROP COLUMN prompt_index,
        ALTER COLUMN request SET NOT NULL, ALTER COLUMN prompt_text SET NOT NULL
    """,
    "DROP TABLE requests",
)


def upgrade() -> None:
    """Store requests once, count rows, and let traces be files."""
    for step in (*REQUESTS, *LISTINGS, *TRACES, *tallies()):
        op.execute(step)


def downgrade() -> None:
    """Go back; every answer has its own copy of the request again."""
    for step in DOWN:
        op.execute(step)
