"""When there is something to learn, learn and publish: Celery tasks over the store and the trainer.

May import `app` (engine, store, settings; never `app.api`) and `training`.
"""
