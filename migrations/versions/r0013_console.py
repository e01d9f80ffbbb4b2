"""The console: browsers that are signed in, and links that sign in once.

Revision ID: 0013
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

TABLES = ("console_sessions", "sign_in_links")
TABLE = """
    CREATE TABLE {name} (
        digest BYTEA NOT NULL,
        api_key_id TEXT NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        expires_at TIMESTAMP WITH TIME ZONE NOT NULL,
        CONSTRAINT pk_{name} PRIMARY KEY (digest),
        CONSTRAINT fk_{name}_api_key_id_api_keys FOREIGN KEY(api_key_id) REFERENCES api_keys (id)
    )
"""


def upgrade() -> None:
    """Make both tables."""
    for name in TABLES:
        op.execute(TABLE.format(name=name))
        op.execute(f"CREATE INDEX ix_{name}_expires_at ON {name} (expires_at)")


def downgrade() -> None:
    """Drop them; whoever was signed in has to sign in again."""
    for name in TABLES:
        op.execute(f"DROP TABLE {name}")
