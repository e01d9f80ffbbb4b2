"""The processes around the model: embedded Postgres and Redis, and the supervisor that keeps them and ours running.

May import the standard library, click, `app.settings` and `app.store`; never torch.
"""
