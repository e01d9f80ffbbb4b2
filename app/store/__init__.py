"""What is remembered: keys, checkpoints, interactions, grades, jobs, in Postgres.

Queries are functions that take a `Session`; whoever opened the session commits it (`connect.Store.session`).
May import SQLAlchemy, psycopg, Alembic and `app.errors`, `app.identifiers`; never torch, FastAPI or Celery.
"""
