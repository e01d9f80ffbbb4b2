"""Traces in files count among the bytes that a project keeps.

Their size stands in the row: the database cannot see the file. Rows of before do not know it, and count nothing, coming
or going.

Revision ID: 0012
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

INLINE = "coalesce(octet_length(one.payload), 0)"
EITHER = "coalesce(octet_length(one.payload), one.file_bytes, 0)"
COUNT = """
    CREATE OR REPLACE FUNCTION count_bytes_of_rollouts() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO project_usage AS known (project_id, shard, stored_bytes)
        SELECT project_id, pg_backend_pid() % 16, CASE TG_OP WHEN 'DELETE' THEN -1 ELSE 1 END * sum({size})
        FROM changed AS one JOIN interactions ON interactions.id = interaction_id
        GROUP BY project_id HAVING sum({size}) > 0 ORDER BY project_id
        ON CONFLICT (project_id, shard) DO UPDATE SET stored_bytes = known.stored_bytes + excluded.stored_bytes;
        RETURN NULL;
    END
    $$
"""
FORGET = """
    INSERT INTO project_usage AS known (project_id, shard, stored_bytes)
    SELECT interactions.project_id, 0, -sum(file_bytes)
    FROM rollouts JOIN interactions ON interactions.id = interaction_id
    WHERE file_bytes IS NOT NULL GROUP BY interactions.project_id
    ON CONFLICT (project_id, shard) DO UPDATE SET stored_bytes = known.stored_bytes + excluded.stored_bytes
"""


def upgrade() -> None:
    """Count files from here on."""
    op.execute("ALTER TABLE rollouts ADD COLUMN file_bytes BIGINT")
    op.execute(COUNT.format(size=EITHER))


def downgrade() -> None:
    """Count rows alone, and take back what was counted of files."""
    op.execute(COUNT.format(size=INLINE))
    op.execute(FORGET)
    op.execute("ALTER TABLE rollouts DROP COLUMN file_bytes")
