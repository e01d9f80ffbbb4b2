"""Answer, remember, swap: the HTTP server, the engine that owns the model, and the store.

May import `training`; never `worker`.
"""
