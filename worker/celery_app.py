"""The Celery application: a bell that says "look now", and the clock that rings it.

A message carries nothing: whether there is something to learn, to grade or to sweep stands in Postgres, so a lost,
doubled or late message costs at most one interval. A hint has no expiry, since that would compare beat's clock with the
worker's: there is one of its kind at most, and reading it late is looking once. That is why acknowledgement, results
and retries of Celery are left unused. Beat loads no torch: the tasks are bound, and what they do is imported, only in a
worker. Leaves out what that is (`worker.learn`, `worker.grade`, `worker.retention`).
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from celery import Celery
from celery.beat import Scheduler
from kombu.entity import Queue

from app.errors import Unavailable
from app.settings import Settings

if TYPE_CHECKING:
    from worker.resident import Context

LEARN: Final = "lepo.learn"
GRADE: Final = "lepo.grade"
SWEEP: Final = "lepo.sweep"
QUEUES: Final = {LEARN: "lepo-learn", GRADE: "lepo-grade", SWEEP: "lepo-sweep"}

_HEALTH_CHECK_S = 10  # an idle connection is pinged this often, so that a Redis that went away is noticed
_SOCKET_S = 15.0  # a Redis that accepts and never answers is an error after this long
_RETRY_MOST_S = 2.0  # longest pause between two attempts to reach Redis

log = logging.getLogger(__name__)


class HintScheduler(Scheduler):  # type: ignore[misc]  # celery has no types
    """Beat's scheduler, which leaves a hint out while the one before it is still unread.

    Its schedule lives in memory alone: it is derived from the settings, and a hint missed during a restart is followed
    by the next. So a worker that is away for a week finds two messages and not half a million.
    """

    def send_task(self, name: str, *args: Any, producer: Any = None, **options: Any) -> Any:
        """Send the hint unless one waits already."""
        if queue(name, producer.channel).queue_declare().message_count:
            return None
        return super().send_task(name, *args, producer=producer, **options)


def build(settings: Settings, redis_url: str) -> Celery:
    """Make the application; nothing is connected yet.

    Args:
        settings: the intervals of the hints.
        redis_url: `redis://...`, `rediss://...` or `redis+socket:///path`, already resolved.

    """
    celery = Celery("lepo", set_as_current=False)
    celery.conf.update(
        broker_url=redis_url,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={
            "health_check_interval": _HEALTH_CHECK_S,
            "socket_timeout": _SOCKET_S,
            "socket_connect_timeout": _SOCKET_S,
        },
        result_backend=None,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_queues=[queue(task) for task in QUEUES],
        task_routes={task: {"queue": name} for task, name in QUEUES.items()},
        task_create_missing_queues=False,
        task_default_queue=QUEUES[LEARN],
        task_publish_retry_policy={"max_retries": 2, "interval_start": 0, "interval_max": _RETRY_MOST_S},
        worker_pool="solo",
        worker_concurrency=1,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=True,  # only those acknowledged late: none of ours
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        beat_scheduler=HintScheduler,
        beat_max_loop_interval=_RETRY_MOST_S,
        beat_schedule=_schedule(settings),
        enable_utc=True,
    )
    return celery


def register(celery: Celery, context: "Context") -> None:
    """Bind the tasks to this process, which is a worker."""
    from worker.grade import grade
    from worker.learn import learn
    from worker.retention import sweep

    celery.task(name=LEARN)(task_of(learn, context))
    celery.task(name=GRADE)(task_of(grade, context))
    celery.task(name=SWEEP)(task_of(sweep, context))


def task_of(work: Callable[["Context"], object], context: "Context") -> Callable[[], None]:
    """Make a task of work: an error is Celery's to log, and a database that is away is a line in the log.

    Either way the next hint tries again; what an error means for a job is on the job's row.
    """

    def task() -> None:
        try:
            work(context)
        except Unavailable as error:
            log.warning("not now: %s", error)

    return task


def queue(task: str, channel: Any = None) -> Any:
    """Give a task's own queue: a hint that waits there is one of its kind.

    Hints are never acknowledged. Losing one is nothing; but kombu counts a message whose acknowledgement failed (Redis
    died in that moment) as under way for ever, and a worker that may have one under way would never hear another.
    """
    return Queue(QUEUES[task], channel=channel, no_ack=True)  # type: ignore[no-untyped-call]  # kombu has few types


def _schedule(settings: Settings) -> dict[str, dict[str, Any]]:
    intervals = {LEARN: settings.learn_interval, GRADE: settings.grade_interval, SWEEP: settings.sweep_interval}
    return {
        task: {"task": task, "schedule": interval, "options": {"queue": QUEUES[task]}}
        for task, interval in intervals.items()
    }
