"""The schema's history, run by Alembic (`lepo migrate`, `app.store.migrate`).

A step states the schema of its day in full and imports nothing of `app` but what `env` needs to compare.
"""
