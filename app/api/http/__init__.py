"""What every face of the API stands on; it knows no route.

One connection: `wire`, `outbox`, `disconnect`. One request: `limits`, `fields`, `filters`, `paths`, `once`, `errors`.
The process: `transactions`, `mailbox` (from other threads).
"""
