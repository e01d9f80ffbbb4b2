"""Projects own keys and answers and are counted; grading tokens have rows; what operators do is written down.

What there is belongs to the project `default`, but for admin keys, which rule the whole service as before. What it
stores so far is estimated from the sizes of the tables; from here on every byte is counted.

Revision ID: 0009
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SHARDS = 16
# table -> what a row of it takes of its project, as SQL over `one`; and how it is found which project that is
COUNTED = {
    "requests": ("octet_length(one.body::text) + octet_length(one.prompts::text)", "changed AS one"),
    "interactions": ("octet_length(one.answer)", "changed AS one"),
    "rollouts": (
        "coalesce(octet_length(one.payload), 0)",
        "changed AS one JOIN interactions ON interactions.id = interaction_id",
    ),
    "grades": (
        "coalesce(octet_length(one.comment), 0) + coalesce(octet_length(one.correction), 0)",
        "changed AS one JOIN interactions ON interactions.id = interaction_id",
    ),
}
COUNT = """
    CREATE FUNCTION count_bytes_of_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO project_usage AS known (project_id, shard, stored_bytes)
        SELECT project_id, pg_backend_pid() % {shards}, CASE TG_OP WHEN 'DELETE' THEN -1 ELSE 1 END * sum({size})
        FROM {source}
        GROUP BY project_id HAVING sum({size}) > 0 ORDER BY project_id
        ON CONFLICT (project_id, shard) DO UPDATE SET stored_bytes = known.stored_bytes + excluded.stored_bytes;
        RETURN NULL;
    END
    $$
"""
WHEN = """
    CREATE TRIGGER count_bytes_{when} AFTER {event} ON {table} REFERENCING {image} TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION count_bytes_of_{table}()
"""

UP = (
    """
    CREATE TABLE projects (
        id TEXT NOT NULL,
        requests_per_minute BIGINT,
        tokens_per_minute BIGINT,
        stored_bytes BIGINT,
        grading_seconds DOUBLE PRECISION,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_projects PRIMARY KEY (id),
        CONSTRAINT ck_projects_limits_possible CHECK (
            requests_per_minute >= 0 AND tokens_per_minute >= 0 AND stored_bytes >= 0 AND grading_seconds >= 0
        )
    )
    """,
    "INSERT INTO projects (id) VALUES ('default')",
    """
    CREATE TABLE project_usage (
        project_id TEXT NOT NULL,
        shard SMALLINT NOT NULL,
        stored_bytes BIGINT DEFAULT 0 NOT NULL,
        grading_seconds DOUBLE PRECISION DEFAULT 0 NOT NULL,
        grading_day DATE,
        CONSTRAINT pk_project_usage PRIMARY KEY (project_id, shard),
        CONSTRAINT fk_project_usage_project_id_projects FOREIGN KEY (project_id) REFERENCES projects (id)
    )
    """,
    """
    INSERT INTO project_usage (project_id, shard, stored_bytes)
    SELECT 'default', 0, sum(pg_table_size(oid)) FROM pg_class
    WHERE oid IN ('requests'::regclass, 'interactions'::regclass, 'rollouts'::regclass, 'grades'::regclass)
        AND EXISTS (SELECT 1 FROM interactions)
    HAVING count(*) > 0
    """,
    """
    ALTER TABLE api_keys
        ADD COLUMN project_id TEXT DEFAULT 'default',
        ADD COLUMN requests_per_minute BIGINT,
        ADD COLUMN tokens_per_minute BIGINT,
        ADD COLUMN max_choices INTEGER,
        ADD CONSTRAINT fk_api_keys_project_id_projects FOREIGN KEY (project_id) REFERENCES projects (id)
    """,
    "UPDATE api_keys SET project_id = NULL WHERE 'admin' = ANY (scopes)",
    """
    ALTER TABLE api_keys
        ADD CONSTRAINT ck_api_keys_of_a_project CHECK (project_id IS NOT NULL OR 'admin' = ANY (scopes)),
        ADD CONSTRAINT ck_api_keys_limits_possible CHECK (
            requests_per_minute >= 0 AND tokens_per_minute >= 0 AND max_choices >= 0
        )
    """,
    "CREATE INDEX ix_api_keys_project_id ON api_keys (project_id)",
    """
    ALTER TABLE interactions
        ADD COLUMN project_id TEXT DEFAULT 'default' NOT NULL,
        ADD CONSTRAINT fk_interactions_project_id_projects FOREIGN KEY (project_id) REFERENCES projects (id)
    """,
    "CREATE INDEX ix_interactions_project_id ON interactions (project_id, id)",
    """
    ALTER TABLE requests
        ADD COLUMN project_id TEXT DEFAULT 'default' NOT NULL,
        ADD CONSTRAINT fk_requests_project_id_projects FOREIGN KEY (project_id) REFERENCES projects (id)
    """,
    """
    ALTER TABLE tombstones
        ADD COLUMN project_id TEXT DEFAULT 'default' NOT NULL,
        ADD CONSTRAINT fk_tombstones_project_id_projects FOREIGN KEY (project_id) REFERENCES projects (id)
    """,
    """
    ALTER TABLE erasures
        ADD COLUMN project_id TEXT,
        ADD CONSTRAINT fk_erasures_project_id_projects FOREIGN KEY (project_id) REFERENCES projects (id)
    """,
    """
    CREATE TABLE grading_tokens (
        id UUID NOT NULL,
        interaction_id UUID NOT NULL,
        api_key_id TEXT NOT NULL,
        grades INTEGER NOT NULL,
        used INTEGER DEFAULT 0 NOT NULL,
        expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
        revoked_at TIMESTAMP WITH TIME ZONE,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_grading_tokens PRIMARY KEY (id),
        CONSTRAINT ck_grading_tokens_used_within CHECK (used >= 0 AND used <= grades),
        CONSTRAINT fk_grading_tokens_interaction_id_interactions
            FOREIGN KEY (interaction_id) REFERENCES interactions (id) ON DELETE CASCADE,
        CONSTRAINT fk_grading_tokens_api_key_id_api_keys FOREIGN KEY (api_key_id) REFERENCES api_keys (id)
    )
    """,
    "CREATE INDEX ix_grading_tokens_interaction_id ON grading_tokens (interaction_id)",
    "CREATE INDEX ix_grading_tokens_expires_at ON grading_tokens (expires_at)",
    """
    CREATE TABLE audit (
        id UUID NOT NULL,
        actor TEXT NOT NULL,
        project_id TEXT,
        action TEXT NOT NULL,
        target TEXT,
        outcome TEXT,
        request_id TEXT,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_audit PRIMARY KEY (id),
        CONSTRAINT fk_audit_project_id_projects FOREIGN KEY (project_id) REFERENCES projects (id)
    )
    """,
    "CREATE INDEX ix_audit_created_at ON audit (created_at)",
    "CREATE INDEX ix_audit_project_id ON audit (project_id, id) WHERE project_id IS NOT NULL",
    *(
        step.format(table=table, size=size, source=source, shards=SHARDS, when=event.lower(), event=event, image=image)
        for table, (size, source) in COUNTED.items()
        for step, event, image in ((COUNT, "", ""), (WHEN, "INSERT", "NEW"), (WHEN, "DELETE", "OLD"))
    ),
)

DOWN = (
    *(f"DROP TRIGGER count_bytes_{event} ON {table}" for table in COUNTED for event in ("insert", "delete")),
    *(f"DROP FUNCTION count_bytes_of_{table}()" for table in COUNTED),
    "DROP TABLE audit, grading_tokens, project_usage",
    "ALTER TABLE erasures DROP COLUMN project_id",
    "ALTER TABLE tombstones DROP COLUMN project_id",
    "ALTER TABLE interactions DROP COLUMN project_id",
    "ALTER TABLE requests DROP COLUMN project_id",
    # An admin of one project would rule everything: its key is closed.
    """
    UPDATE api_keys SET revoked_at = coalesce(revoked_at, now())
    WHERE project_id IS NOT NULL AND 'admin' = ANY (scopes)
    """,
    """
    ALTER TABLE api_keys
        DROP CONSTRAINT ck_api_keys_of_a_project,
        DROP CONSTRAINT ck_api_keys_limits_possible,
        DROP COLUMN project_id,
        DROP COLUMN requests_per_minute,
        DROP COLUMN tokens_per_minute,
        DROP COLUMN max_choices
    """,
    "DROP TABLE projects",
)


def upgrade() -> None:
    """Let several projects share the service."""
    for step in UP:
        op.execute(step)


def downgrade() -> None:
    """Go back; everybody shares everything again."""
    for step in DOWN:
        op.execute(step)
