"""The processes of one machine: embedded Postgres and Redis, and the supervisor that keeps all of them running."""
