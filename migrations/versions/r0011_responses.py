"""Answers of the Responses API are kept like those of the others.

Revision ID: 0011
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

KNOWN = "ALTER TABLE interactions DROP CONSTRAINT ck_interactions_endpoint_known"
CHECK = "ALTER TABLE interactions ADD CONSTRAINT ck_interactions_endpoint_known CHECK (endpoint IN ({endpoints}))"


def upgrade() -> None:
    """Let `response` be an endpoint."""
    op.execute(KNOWN)
    op.execute(CHECK.format(endpoints="'chat', 'completion', 'response'"))


def downgrade() -> None:
    """Go back; what the Responses API answered counts as chat, which it was made of."""
    op.execute("UPDATE interactions SET endpoint = 'chat' WHERE endpoint = 'response'")
    op.execute(KNOWN)
    op.execute(CHECK.format(endpoints="'chat', 'completion'"))
