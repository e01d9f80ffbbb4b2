"""The life of a policy as states and transitions, a lease on a running job, learning that can be frozen.

Keeps what the first release wrote: aliases become states, promotions become transitions, rejected answers stay spent.
What it called learned though no policy that served contains it waits again.

Revision ID: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATES = "'candidate', 'held', 'refused', 'shadow', 'canary', 'serving', 'retired', 'rolled_back'"

UP = (
    "ALTER TABLE checkpoints ADD COLUMN state TEXT",
    "ALTER TABLE checkpoints ADD COLUMN files_deleted_at TIMESTAMP WITH TIME ZONE",
    # Who was promoted and serves no more was retired, or, where an older one took its place, rolled back.
    """
    UPDATE checkpoints AS one SET
        files_deleted_at = CASE WHEN metrics ->> 'deleted' = 'true' THEN now() END,
        metrics = metrics - 'deleted',
        state = CASE
            WHEN one.id = (SELECT checkpoint_id FROM aliases WHERE name = 'serving') THEN 'serving'
            WHEN status = 'rejected' THEN 'refused'
            WHEN NOT EXISTS (SELECT FROM promotions WHERE to_checkpoint_id = one.id AND alias = 'serving') THEN 'held'
            WHEN version > (
                SELECT next.version FROM promotions JOIN checkpoints AS next ON next.id = to_checkpoint_id
                WHERE from_checkpoint_id = one.id AND alias = 'serving'
                ORDER BY promotions.created_at DESC, promotions.id DESC LIMIT 1
            ) THEN 'rolled_back'
            ELSE 'retired'
        END
    """,
    "ALTER TABLE checkpoints ALTER COLUMN state SET NOT NULL",
    "ALTER TABLE checkpoints DROP COLUMN status",
    f"ALTER TABLE checkpoints ADD CONSTRAINT ck_checkpoints_state_known CHECK (state IN ({STATES}))",
    *(
        f"CREATE UNIQUE INDEX uq_checkpoints_one_{state} ON checkpoints (state) WHERE state = '{state}'"
        for state in ("serving", "shadow", "canary")
    ),
    "CREATE INDEX ix_checkpoints_parent_id ON checkpoints (parent_id)",
    f"""
    CREATE TABLE transitions (
        id UUID NOT NULL,
        entry BIGINT GENERATED ALWAYS AS IDENTITY,
        checkpoint_id UUID NOT NULL,
        from_state TEXT,
        to_state TEXT NOT NULL,
        event TEXT NOT NULL,
        replaced_id UUID,
        actor TEXT NOT NULL,
        reason TEXT NOT NULL,
        figures JSONB NOT NULL,
        job_id UUID,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_transitions PRIMARY KEY (id),
        CONSTRAINT uq_transitions_entry UNIQUE (entry),
        CONSTRAINT ck_transitions_to_state_known CHECK (to_state IN ({STATES})),
        CONSTRAINT fk_transitions_checkpoint_id_checkpoints FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id),
        CONSTRAINT fk_transitions_replaced_id_checkpoints FOREIGN KEY(replaced_id) REFERENCES checkpoints (id),
        CONSTRAINT fk_transitions_job_id_jobs FOREIGN KEY(job_id) REFERENCES jobs (id)
    )
    """,
    "CREATE INDEX ix_transitions_checkpoint_id ON transitions (checkpoint_id, entry)",
    "CREATE INDEX ix_transitions_to_state ON transitions (to_state, entry)",
    # A promotion of an older version was a rollback.
    """
    INSERT INTO transitions
        (id, checkpoint_id, to_state, event, replaced_id, actor, reason, figures, job_id, created_at)
    SELECT promotions.id, to_checkpoint_id, 'serving',
        CASE WHEN served.version < replaced.version THEN 'restore' ELSE 'promote' END,
        from_checkpoint_id, actor, reason, '{}', served.job_id, promotions.created_at
    FROM promotions
        JOIN checkpoints AS served ON served.id = to_checkpoint_id
        LEFT JOIN checkpoints AS replaced ON replaced.id = from_checkpoint_id
    WHERE alias = 'serving'
    ORDER BY promotions.created_at, promotions.id
    """,
    # One policy may wait for a decision: the newest that was made from what serves. The others never will be served.
    """
    WITH waiting AS (
        SELECT one.id FROM checkpoints AS one JOIN checkpoints AS parent ON parent.id = one.parent_id
        WHERE one.state = 'held' AND one.files_deleted_at IS NULL AND parent.state = 'serving'
        ORDER BY one.version DESC LIMIT 1
    ), passed_over AS (
        UPDATE checkpoints SET state = 'refused'
        WHERE state = 'held' AND id NOT IN (SELECT id FROM waiting)
        RETURNING id, job_id
    )
    INSERT INTO transitions (id, checkpoint_id, from_state, to_state, event, actor, reason, figures, job_id)
    SELECT gen_random_uuid(), id, 'held', 'refused', 'discard', 'migration', 'it was passed over before', '{}', job_id
    FROM passed_over
    """,
    """
    WITH given_back AS (
        DELETE FROM claims USING checkpoints
        WHERE claims.job_id = checkpoints.job_id AND outcome = 'learned' AND state = 'refused'
        RETURNING interaction_id
    )
    UPDATE interactions SET claimed = false FROM given_back WHERE id = interaction_id
    """,
    """
    UPDATE claims SET outcome = 'claimed' FROM checkpoints
    WHERE claims.job_id = checkpoints.job_id AND outcome = 'learned' AND state = 'held'
    """,
    "DROP TABLE promotions",
    "DROP TABLE aliases",
    """
    CREATE TABLE learning (
        id SMALLINT NOT NULL,
        frozen_at TIMESTAMP WITH TIME ZONE,
        frozen_by TEXT,
        frozen_reason TEXT,
        pinned_at TIMESTAMP WITH TIME ZONE,
        pinned_by TEXT,
        pinned_reason TEXT,
        refusals INTEGER DEFAULT 0 NOT NULL,
        rate_scale DOUBLE PRECISION DEFAULT 1 NOT NULL,
        batch_scale DOUBLE PRECISION DEFAULT 1 NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_learning PRIMARY KEY (id),
        CONSTRAINT ck_learning_one_row CHECK (id = 1),
        CONSTRAINT ck_learning_rate_scale_in_range CHECK (rate_scale > 0 AND rate_scale <= 1),
        CONSTRAINT ck_learning_batch_scale_in_range CHECK (batch_scale > 0 AND batch_scale <= 1),
        CONSTRAINT ck_learning_refusals_counted CHECK (refusals >= 0)
    )
    """,
    "INSERT INTO learning (id) VALUES (1)",
    "ALTER TABLE jobs ADD COLUMN lease_until TIMESTAMP WITH TIME ZONE",
    "ALTER TABLE jobs ADD COLUMN fault TEXT",
    """
    ALTER TABLE jobs ADD CONSTRAINT ck_jobs_fault_known
        CHECK (fault IN ('data', 'infrastructure', 'operator', 'policy'))
    """,
    "UPDATE jobs SET lease_until = coalesce(heartbeat_at, started_at, created_at) WHERE status = 'running'",
    "UPDATE jobs SET verdict = 'refused', fault = 'policy' WHERE verdict = 'rejected'",
    "CREATE INDEX ix_jobs_finished_at ON jobs (finished_at)",
    "ALTER TABLE claims ADD COLUMN divergence DOUBLE PRECISION",
    "ALTER TABLE claims ADD COLUMN weight DOUBLE PRECISION",
    "UPDATE claims SET reason = 'refused' WHERE reason = 'rejected'",
    "ALTER TABLE interactions ADD COLUMN charged_key_id TEXT DEFAULT '' NOT NULL",
    "ALTER TABLE interactions ADD COLUMN refusals SMALLINT DEFAULT 0 NOT NULL",
    "ALTER TABLE interactions ADD COLUMN reward DOUBLE PRECISION",
    """
    UPDATE interactions AS one SET reward = effective.reward, charged_key_id = coalesce(
        (
            SELECT api_key_id FROM latest_grades AS grade
            WHERE grade.interaction_id = one.id AND api_key_id IS NOT NULL
            ORDER BY created_at DESC LIMIT 1
        ),
        one.api_key_id,
        ''
    )
    FROM effective_grades AS effective WHERE effective.interaction_id = one.id
    """,
    "DROP INDEX ix_interactions_fresh",
    """
    CREATE INDEX ix_interactions_fresh ON interactions (charged_key_id, policy_version DESC, graded_at DESC)
        WHERE graded_at IS NOT NULL AND learnable AND NOT claimed
    """,
    """
    CREATE INDEX ix_interactions_fresh_reward ON interactions (reward)
        WHERE graded_at IS NOT NULL AND learnable AND NOT claimed
    """,
    "CREATE INDEX ix_interactions_checkpoint_id ON interactions (checkpoint_id, id)",
)

DOWN = (
    "DROP INDEX ix_interactions_checkpoint_id",
    "DROP INDEX ix_interactions_fresh",  # the one on rewards goes with its column
    """
    CREATE INDEX ix_interactions_fresh ON interactions (graded_at)
        WHERE graded_at IS NOT NULL AND learnable AND NOT claimed
    """,
    "ALTER TABLE interactions DROP COLUMN refusals, DROP COLUMN charged_key_id, DROP COLUMN reward",
    "UPDATE claims SET reason = 'rejected' WHERE reason = 'refused'",
    # The first release knows no answers that wait with a policy: what a job that is over made of them is learned.
    """
    UPDATE claims SET outcome = 'learned' FROM jobs
    WHERE jobs.id = job_id AND outcome = 'claimed' AND finished_at IS NOT NULL
    """,
    "ALTER TABLE claims DROP COLUMN divergence, DROP COLUMN weight",
    "DROP INDEX ix_jobs_finished_at",
    "UPDATE jobs SET verdict = 'rejected' WHERE verdict = 'refused'",
    "ALTER TABLE jobs DROP COLUMN fault, DROP COLUMN lease_until",
    "DROP TABLE learning",
    """
    CREATE TABLE aliases (
        name TEXT NOT NULL,
        checkpoint_id UUID NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        CONSTRAINT pk_aliases PRIMARY KEY (name),
        CONSTRAINT fk_aliases_checkpoint_id_checkpoints FOREIGN KEY(checkpoint_id) REFERENCES checkpoints (id)
    )
    """,
    "INSERT INTO aliases (name, checkpoint_id) SELECT 'serving', id FROM checkpoints WHERE state = 'serving'",
    """
    INSERT INTO aliases (name, checkpoint_id)
    SELECT 'previous', replaced_id FROM transitions JOIN checkpoints ON checkpoints.id = checkpoint_id
    WHERE to_state = 'serving' AND state = 'serving' AND replaced_id IS NOT NULL
    ORDER BY transitions.entry DESC LIMIT 1
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
    INSERT INTO promotions (id, alias, from_checkpoint_id, to_checkpoint_id, reason, actor, created_at)
    SELECT id, 'serving', replaced_id, checkpoint_id, reason, actor, created_at
    FROM transitions WHERE event IN ('promote', 'restore')
    """,
    "DROP TABLE transitions",
    "DROP INDEX ix_checkpoints_parent_id",
    "ALTER TABLE checkpoints ADD COLUMN status TEXT",
    """
    UPDATE checkpoints SET
        status = CASE WHEN state = 'refused' THEN 'rejected' ELSE 'published' END,
        metrics = CASE WHEN files_deleted_at IS NULL THEN metrics ELSE metrics || '{"deleted": true}' END
    """,
    "ALTER TABLE checkpoints ALTER COLUMN status SET NOT NULL",
    "ALTER TABLE checkpoints ADD CONSTRAINT ck_checkpoints_status_known CHECK (status IN ('published', 'rejected'))",
    "ALTER TABLE checkpoints DROP COLUMN state, DROP COLUMN files_deleted_at",
)


def upgrade() -> None:
    """Give policies a life."""
    for step in UP:
        op.execute(step)


def downgrade() -> None:
    """Go back to aliases; transitions other than promotions are lost."""
    for step in DOWN:
        op.execute(step)
