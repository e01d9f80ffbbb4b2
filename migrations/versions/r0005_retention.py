"""Rows with an end of life: claims outlive their answers, removed answers leave tombstones, each sweep has its index.

Revision ID: 0005
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_interactions_ungraded": "interactions (created_at) WHERE graded_at IS NULL AND NOT claimed",
    "ix_interactions_user_tag": "interactions (user_tag, id) WHERE user_tag IS NOT NULL",
    "ix_rollouts_unlearnable": "rollouts (created_at) WHERE NOT learnable",
    "ix_grades_supersedes_id": "grades (supersedes_id) WHERE supersedes_id IS NOT NULL",
    "ix_idempotency_keys_interaction": "idempotency_keys ((response ->> 'interaction_id'))",
    "ix_job_events_created_at": "job_events (created_at)",
    "ix_claims_with_rollout": "claims (created_at) WHERE outcome <> 'claimed' AND NOT rollout_removed",
    "ix_evaluations_detailed": "evaluations (created_at) WHERE detail IS NOT NULL",
    "ix_tracker_values_updated_at": "tracker_values (updated_at)",
    "ix_checkpoints_job_id": "checkpoints (job_id)",
    "ix_transitions_job_id": "transitions (job_id)",
}

UP = (
    "ALTER TABLE claims DROP CONSTRAINT fk_claims_interaction_id_interactions",
    "ALTER TABLE claims ADD COLUMN rollout_removed BOOLEAN DEFAULT false NOT NULL",
    """
    ALTER TABLE rollouts
        ADD COLUMN learnable BOOLEAN DEFAULT true NOT NULL,
        ADD COLUMN created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL
    """,
    """
    UPDATE rollouts SET learnable = false
    FROM interactions WHERE interactions.id = rollouts.interaction_id AND NOT interactions.learnable
    """,
    """
    CREATE TABLE erasures (
        id UUID NOT NULL,
        actor TEXT NOT NULL,
        subject TEXT NOT NULL,
        subject_hmac BYTEA NOT NULL,
        api_key_id TEXT,
        removed JSONB NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        finished_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_erasures PRIMARY KEY (id),
        CONSTRAINT ck_erasures_subject_known CHECK (subject IN ('user', 'interaction'))
    )
    """,
    "CREATE INDEX ix_erasures_subject ON erasures (subject_hmac)",
    """
    CREATE TABLE tombstones (
        interaction_id UUID NOT NULL,
        erasure_id UUID,
        checkpoint_id UUID NOT NULL,
        policy_version BIGINT NOT NULL,
        api_key_id TEXT,
        answered_at TIMESTAMP WITH TIME ZONE NOT NULL,
        sha256 BYTEA NOT NULL,
        reward DOUBLE PRECISION,
        grader_keys TEXT[] NOT NULL,
        grader_kinds TEXT[] NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_tombstones PRIMARY KEY (interaction_id),
        CONSTRAINT fk_tombstones_erasure_id_erasures FOREIGN KEY(erasure_id) REFERENCES erasures (id),
        CONSTRAINT fk_tombstones_checkpoint_id_checkpoints FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id)
    )
    """,
    "CREATE INDEX ix_tombstones_erasure_id ON tombstones (erasure_id)",
    "CREATE INDEX ix_tombstones_created_at ON tombstones (created_at)",
    *(f"CREATE INDEX {name} ON {where}" for name, where in INDEXES.items()),
)

DOWN = (
    *(f"DROP INDEX {name}" for name in INDEXES),
    "DROP TABLE tombstones",
    "DROP TABLE erasures",
    "ALTER TABLE rollouts DROP COLUMN created_at, DROP COLUMN learnable",
    "ALTER TABLE claims DROP COLUMN rollout_removed",
    "DELETE FROM claims WHERE NOT EXISTS (SELECT FROM interactions WHERE interactions.id = claims.interaction_id)",
    """
    ALTER TABLE claims ADD CONSTRAINT fk_claims_interaction_id_interactions
        FOREIGN KEY(interaction_id) REFERENCES interactions (id)
    """,
)


def upgrade() -> None:
    """Let rows go."""
    for step in UP:
        op.execute(step)


def downgrade() -> None:
    """Tie claims to their answers again; claims of answers that are gone, and tombstones, are lost."""
    for step in DOWN:
        op.execute(step)
