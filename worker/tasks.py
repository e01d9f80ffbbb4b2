"""The tasks as Celery sees them: doors to `worker.learn`, `worker.grade` and `worker.sweep`, and nothing more.

An error goes on to Celery, which logs it and waits for the next hint; what it means for a job is on the job's row.
"""

import logging
from collections.abc import Callable

from celery import Celery

from app.errors import Unavailable
from worker.celery_app import GRADE, LEARN, SWEEP
from worker.context import Context
from worker.grade import grade
from worker.learn import learn
from worker.sweep import sweep

log = logging.getLogger(__name__)


def register(celery: Celery, context: Context) -> None:
    """Bind the tasks to this process."""
    celery.task(name=LEARN)(door(learn, context))
    celery.task(name=GRADE)(door(grade, context))
    celery.task(name=SWEEP)(door(sweep, context))


def door(work: Callable[[Context], object], context: Context) -> Callable[[], None]:
    """Make a task of work; a database that is away is a line in the log, and the next hint tries again."""

    def look() -> None:
        try:
            work(context)
        except Unavailable as error:
            log.warning("not now: %s", error)

    return look
