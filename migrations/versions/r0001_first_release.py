"""The schema of the first release: keys, checkpoints, interactions, grades, jobs.

Revision ID: 0001
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    "api_keys",
    "secrets",
    "checkpoints",
    "aliases",
    "promotions",
    "interactions",
    "rollouts",
    "grades",
    "idempotency_keys",
    "jobs",
    "job_events",
    "claims",
    "evaluations",
    "swaps",
    "tracker_values",
)

STEPS = (
    """
    CREATE TABLE api_keys (
        id TEXT NOT NULL,
        name TEXT NOT NULL,
        secret_sha256 BYTEA NOT NULL,
        scopes TEXT[] NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        expires_at TIMESTAMP WITH TIME ZONE,
        revoked_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_api_keys PRIMARY KEY (id),
        CONSTRAINT ck_api_keys_scopes_known CHECK (scopes <@ ARRAY['infer', 'grade', 'admin']::text[])
    )
    """,
    """
    CREATE TABLE secrets (
        name TEXT NOT NULL,
        value BYTEA NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_secrets PRIMARY KEY (name)
    )
    """,
    """
    CREATE TABLE checkpoints (
        id UUID NOT NULL,
        version BIGINT NOT NULL,
        parent_id UUID,
        path TEXT NOT NULL,
        digest TEXT NOT NULL,
        job_id UUID,
        status TEXT NOT NULL,
        metrics JSONB NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_checkpoints PRIMARY KEY (id),
        CONSTRAINT ck_checkpoints_status_known CHECK (status IN ('published', 'rejected')),
        CONSTRAINT uq_checkpoints_version UNIQUE (version),
        CONSTRAINT fk_checkpoints_parent_id_checkpoints FOREIGN KEY(parent_id) REFERENCES checkpoints (id)
    )
    """,
    """
    CREATE TABLE aliases (
        name TEXT NOT NULL,
        checkpoint_id UUID NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_aliases PRIMARY KEY (name),
        CONSTRAINT fk_aliases_checkpoint_id_checkpoints FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id)
    )
    """,
    """
    CREATE TABLE promotions (
        id UUID NOT NULL,
        alias TEXT NOT NULL,
        from_checkpoint_id UUID,
        to_checkpoint_id UUID NOT NULL,
        reason TEXT NOT NULL,
        actor TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_promotions PRIMARY KEY (id),
        CONSTRAINT fk_promotions_from_checkpoint_id_checkpoints FOREIGN KEY(from_checkpoint_id)
            REFERENCES checkpoints (id),
        CONSTRAINT fk_promotions_to_checkpoint_id_checkpoints FOREIGN KEY(to_checkpoint_id) REFERENCES checkpoints (id)
    )
    """,
    """
    CREATE TABLE interactions (
        id UUID NOT NULL,
        completion_id TEXT NOT NULL,
        choice INTEGER NOT NULL,
        group_size INTEGER NOT NULL,
        endpoint TEXT NOT NULL,
        model TEXT NOT NULL,
        checkpoint_id UUID NOT NULL,
        policy_version BIGINT NOT NULL,
        api_key_id TEXT,
        request JSONB NOT NULL,
        prompt_text TEXT NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        answer TEXT NOT NULL,
        finish_reason TEXT NOT NULL,
        usage JSONB NOT NULL,
        grader JSONB,
        grading_state TEXT DEFAULT 'none' NOT NULL,
        grading_attempts INTEGER DEFAULT '0' NOT NULL,
        user_tag TEXT,
        metadata JSONB,
        learnable BOOLEAN NOT NULL,
        unlearnable_reason TEXT,
        graded_at TIMESTAMP WITH TIME ZONE,
        claimed BOOLEAN DEFAULT false NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_interactions PRIMARY KEY (id),
        CONSTRAINT uq_interactions_completion_id_choice UNIQUE (completion_id, choice),
        CONSTRAINT ck_interactions_endpoint_known CHECK (endpoint IN ('chat', 'completion')),
        CONSTRAINT ck_interactions_finish_reason_known
            CHECK (finish_reason IN ('stop', 'length', 'cancelled', 'deadline')),
        CONSTRAINT ck_interactions_grading_state_known CHECK (grading_state IN ('none', 'pending', 'graded', 'failed')),
        CONSTRAINT ck_interactions_choice_in_group CHECK (choice >= 0 AND choice < group_size),
        CONSTRAINT ck_interactions_unlearnable_says_why CHECK (learnable = (unlearnable_reason IS NULL)),
        CONSTRAINT fk_interactions_checkpoint_id_checkpoints FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id),
        CONSTRAINT fk_interactions_api_key_id_api_keys FOREIGN KEY(api_key_id) REFERENCES api_keys (id)
    )
    """,
    """
    CREATE INDEX ix_interactions_api_key_id ON interactions (api_key_id, id)
    """,
    """
    CREATE INDEX ix_interactions_created_at ON interactions (created_at)
    """,
    """
    CREATE INDEX ix_interactions_fresh ON interactions (graded_at)
        WHERE graded_at IS NOT NULL AND learnable AND NOT claimed
    """,
    """
    CREATE INDEX ix_interactions_pending ON interactions (created_at) WHERE grading_state = 'pending'
    """,
    """
    CREATE TABLE rollouts (
        interaction_id UUID NOT NULL,
        codec SMALLINT NOT NULL,
        payload BYTEA NOT NULL,
        CONSTRAINT pk_rollouts PRIMARY KEY (interaction_id),
        CONSTRAINT fk_rollouts_interaction_id_interactions FOREIGN KEY(interaction_id)
            REFERENCES interactions (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE TABLE grades (
        id UUID NOT NULL,
        entry BIGINT GENERATED ALWAYS AS IDENTITY,
        interaction_id UUID NOT NULL,
        state TEXT NOT NULL,
        value DOUBLE PRECISION,
        grader_kind TEXT NOT NULL,
        grader_id TEXT NOT NULL,
        grader_version TEXT,
        comment TEXT,
        correction TEXT,
        supersedes_id UUID,
        api_key_id TEXT,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_grades PRIMARY KEY (id),
        CONSTRAINT ck_grades_state_known CHECK (state IN ('graded', 'failed', 'retracted')),
        CONSTRAINT ck_grades_value_iff_graded CHECK ((state = 'graded') = (value IS NOT NULL)),
        CONSTRAINT ck_grades_value_finite CHECK (value NOT IN ('NaN', 'Infinity', '-Infinity')),
        CONSTRAINT uq_grades_entry UNIQUE (entry),
        CONSTRAINT fk_grades_interaction_id_interactions FOREIGN KEY(interaction_id)
            REFERENCES interactions (id) ON DELETE CASCADE,
        CONSTRAINT fk_grades_supersedes_id_grades FOREIGN KEY(supersedes_id) REFERENCES grades (id),
        CONSTRAINT fk_grades_api_key_id_api_keys FOREIGN KEY(api_key_id) REFERENCES api_keys (id)
    )
    """,
    """
    CREATE INDEX ix_grades_ledger ON grades (interaction_id, grader_kind, grader_id, entry)
    """,
    """
    CREATE TABLE idempotency_keys (
        owner TEXT NOT NULL,
        key TEXT NOT NULL,
        route TEXT NOT NULL,
        body_sha256 BYTEA NOT NULL,
        state TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        began_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        status INTEGER,
        response JSONB,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_idempotency_keys PRIMARY KEY (owner, key),
        CONSTRAINT ck_idempotency_keys_state_known CHECK (state IN ('running', 'done'))
    )
    """,
    """
    CREATE INDEX ix_idempotency_keys_created_at ON idempotency_keys (created_at)
    """,
    """
    CREATE TABLE jobs (
        id UUID NOT NULL,
        kind TEXT DEFAULT 'update' NOT NULL,
        status TEXT DEFAULT 'queued' NOT NULL,
        trigger TEXT NOT NULL,
        requested_by TEXT NOT NULL,
        config JSONB NOT NULL,
        phase TEXT,
        phase_started_at TIMESTAMP WITH TIME ZONE,
        heartbeat_at TIMESTAMP WITH TIME ZONE,
        fence BIGINT,
        worker TEXT,
        cancel_requested BOOLEAN DEFAULT false NOT NULL,
        base_checkpoint_id UUID,
        result_checkpoint_id UUID,
        verdict TEXT,
        error TEXT,
        diagnosis JSONB,
        metrics JSONB NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        started_at TIMESTAMP WITH TIME ZONE,
        finished_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_jobs PRIMARY KEY (id),
        CONSTRAINT ck_jobs_kind_known CHECK (kind IN ('update')),
        CONSTRAINT ck_jobs_status_known CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
        CONSTRAINT ck_jobs_trigger_known CHECK (trigger IN ('schedule', 'admin')),
        CONSTRAINT ck_jobs_finished_iff_over CHECK ((status IN ('queued', 'running')) = (finished_at IS NULL)),
        CONSTRAINT fk_jobs_base_checkpoint_id_checkpoints FOREIGN KEY(base_checkpoint_id) REFERENCES checkpoints (id),
        CONSTRAINT fk_jobs_result_checkpoint_id_checkpoints FOREIGN KEY(result_checkpoint_id)
            REFERENCES checkpoints (id)
    )
    """,
    """
    CREATE INDEX ix_jobs_queued ON jobs (created_at) WHERE status = 'queued'
    """,
    """
    CREATE UNIQUE INDEX uq_jobs_one_running ON jobs (status) WHERE status = 'running'
    """,
    """
    CREATE TABLE job_events (
        id BIGINT GENERATED ALWAYS AS IDENTITY,
        job_id UUID NOT NULL,
        kind TEXT NOT NULL,
        level TEXT NOT NULL,
        message TEXT NOT NULL,
        data JSONB,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
        CONSTRAINT pk_job_events PRIMARY KEY (id),
        CONSTRAINT ck_job_events_kind_known CHECK (kind IN ('message', 'metrics')),
        CONSTRAINT ck_job_events_level_known CHECK (level IN ('info', 'warning', 'error')),
        CONSTRAINT fk_job_events_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
    )
    """,
    """
    CREATE INDEX ix_job_events_job ON job_events (job_id, id)
    """,
    """
    CREATE TABLE claims (
        interaction_id UUID NOT NULL,
        job_id UUID NOT NULL,
        outcome TEXT NOT NULL,
        reason TEXT,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_claims PRIMARY KEY (interaction_id),
        CONSTRAINT ck_claims_outcome_known CHECK (outcome IN ('claimed', 'learned', 'skipped')),
        CONSTRAINT ck_claims_skipped_says_why CHECK ((outcome = 'skipped') = (reason IS NOT NULL)),
        CONSTRAINT fk_claims_interaction_id_interactions FOREIGN KEY(interaction_id) REFERENCES interactions (id),
        CONSTRAINT fk_claims_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id)
    )
    """,
    """
    CREATE INDEX ix_claims_job ON claims (job_id, outcome)
    """,
    """
    CREATE TABLE evaluations (
        id UUID NOT NULL,
        checkpoint_id UUID NOT NULL,
        kind TEXT NOT NULL,
        correct INTEGER NOT NULL,
        total INTEGER NOT NULL,
        accuracy DOUBLE PRECISION NOT NULL,
        detail JSONB,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_evaluations PRIMARY KEY (id),
        CONSTRAINT ck_evaluations_kind_known CHECK (kind IN ('gate', 'heldout', 'base')),
        CONSTRAINT ck_evaluations_counts_possible CHECK (correct >= 0 AND correct <= total AND total > 0),
        CONSTRAINT fk_evaluations_checkpoint_id_checkpoints FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id)
    )
    """,
    """
    CREATE INDEX ix_evaluations_checkpoint ON evaluations (checkpoint_id, kind)
    """,
    """
    CREATE TABLE swaps (
        id UUID NOT NULL,
        replica TEXT NOT NULL,
        from_version BIGINT,
        to_version BIGINT NOT NULL,
        status TEXT NOT NULL,
        staged_ms DOUBLE PRECISION,
        pause_ms DOUBLE PRECISION,
        pause_steps DOUBLE PRECISION,
        fingerprint TEXT,
        error TEXT,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_swaps PRIMARY KEY (id),
        CONSTRAINT ck_swaps_status_known CHECK (status IN ('served', 'failed'))
    )
    """,
    """
    CREATE INDEX ix_swaps_created_at ON swaps (created_at)
    """,
    """
    CREATE TABLE tracker_values (
        key TEXT NOT NULL,
        alpha DOUBLE PRECISION NOT NULL,
        beta DOUBLE PRECISION NOT NULL,
        policy_version BIGINT NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_tracker_values PRIMARY KEY (key)
    )
    """,
    """
    ALTER TABLE checkpoints ADD CONSTRAINT fk_checkpoints_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id)
    """,
    """
    CREATE SEQUENCE job_fences
    """,
    # The latest word of each grader on each answer; "failed" is no word, "retracted" takes the word back.
    """
    CREATE VIEW latest_grades AS
    SELECT id, interaction_id, grader_kind, grader_id, api_key_id, value, created_at
    FROM (
        SELECT DISTINCT ON (interaction_id, grader_kind, grader_id) *
        FROM grades
        WHERE state IN ('graded', 'retracted')
        ORDER BY interaction_id, grader_kind, grader_id, entry DESC
    ) AS latest
    WHERE state = 'graded'
    """,
    # One reward per answer: the mean over its graders.
    """
    CREATE VIEW effective_grades AS
    SELECT
        interaction_id,
        avg(value) AS reward,
        count(*) AS graders,
        min(created_at) AS first_graded_at,
        max(created_at) AS last_graded_at
    FROM latest_grades
    GROUP BY interaction_id
    """,
)


def upgrade() -> None:
    """Make everything."""
    for step in STEPS:
        op.execute(step)


def downgrade() -> None:
    """Leave nothing."""
    op.execute("DROP VIEW effective_grades, latest_grades")
    op.execute("DROP SEQUENCE job_fences")
    op.execute("ALTER TABLE checkpoints DROP CONSTRAINT fk_checkpoints_job_id_jobs")
    for table in reversed(TABLES):
        op.drop_table(table)
