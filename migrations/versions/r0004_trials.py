"""Trials of new policies on live traffic: answers nobody saw are marked, and graded answers are found by policy.

Revision ID: 0004
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Mark shadow answers."""
    op.execute("ALTER TABLE interactions ADD COLUMN shadow_of TEXT")
    op.execute(
        "CREATE INDEX ix_interactions_graded ON interactions (checkpoint_id, graded_at) WHERE graded_at IS NOT NULL"
    )


def downgrade() -> None:
    """Forget shadow answers: without the mark they would look like answers that somebody saw."""
    op.execute("DROP INDEX ix_interactions_graded")
    op.execute("DELETE FROM interactions WHERE shadow_of IS NOT NULL")
    op.execute("ALTER TABLE interactions DROP COLUMN shadow_of")
