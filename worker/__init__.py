"""When there is something to learn, learn and publish: Celery tasks over the store and the trainer.

Read it in this order:

    the process       commands, celery_app, resident: become a worker, hear the bell, hold the policy that learns
    an improvement    learn: the whole of it, on one page
    a job             claim, watchdog, faults, job: how it begins, is watched, may end, and is written about
    its phases        samples, resample, corrections, batch: what is learned from
                      gate/: held-out questions, and what they say of a candidate
                      publish: files, one transaction, a bell; recorders: the figures elsewhere
    beside it         grade: graders that requests named; trial: new policies on live traffic; retention: what goes
    without service   offline/: train and evaluate from files

May import `app` (engine, store, settings; never `app.api`) and `training`.
"""
