"""Held-out sets come by upload, and the gate asks one of them.

Revision ID: 0014
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

TABLE = """
    CREATE TABLE held_out_sets (
        version BIGINT NOT NULL,
        digest TEXT NOT NULL,
        lines TEXT NOT NULL,
        prompts INTEGER NOT NULL,
        size INTEGER NOT NULL,
        created_by TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        active BOOLEAN NOT NULL,
        activated_by TEXT,
        activated_at TIMESTAMP WITH TIME ZONE,
        CONSTRAINT pk_held_out_sets PRIMARY KEY (version),
        CONSTRAINT ck_held_out_sets_counts_possible CHECK (version > 0 AND prompts > 0)
    )
"""


def upgrade() -> None:
    """Make the table; until something is uploaded the gate asks what LEPO_HELDOUT names."""
    op.execute(TABLE)
    op.execute("CREATE UNIQUE INDEX uq_held_out_sets_one_active ON held_out_sets (active) WHERE active")


def downgrade() -> None:
    """Drop what was uploaded; the gate asks what LEPO_HELDOUT names."""
    op.execute("DROP TABLE held_out_sets")
