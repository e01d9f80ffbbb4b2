"""Alembic migrations of the store. Run without torch."""
