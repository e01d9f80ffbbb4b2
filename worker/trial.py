"""Trials of new policies on live traffic: from shadow to canary to serving, or back, by what live grades show.

A clock of its own in every worker process looks every LEPO_TRIAL_INTERVAL seconds: a trial must end though an update
runs, learning is frozen or Redis is away. Looking only reads. A move is made under the lock under which all policies
move, and only if the trial is still the one that was judged; so any number of workers may look at once, and whatever an
operator did meanwhile stands. Leaves out the judgement (`app.trials`) and serving (`app.api`).
"""

import logging
import threading
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from sqlalchemy.orm import Session

from app import trials
from app.errors import Conflict, Unavailable
from app.settings import Settings
from app.store import learning, policy_life
from app.store.connect import Store
from app.store.trials import Trial
from app.store.trials import under_way as read_trials
from app.trials import Evidence, Verdict
from worker.publish import ring

ACTOR: Final = "trial"
WATCH: Final = "watch"  # actor of what the watch after a promotion does

log = logging.getLogger(__name__)


def look(store: Store, settings: Settings, redis_url: str) -> list[str]:
    """Judge every trial that is under way, and move the policies it decides about.

    Returns:
        What was done, in words; nothing where all trials go on.

    """
    with store.session() as session:
        found = trials.under_way(session, settings)
    done = []
    for trial, evidence in found:
        verdict = trials.verdict(trial, evidence, settings)
        if verdict is not None and act_on(store, settings, trial, evidence, verdict):
            log.info("version %d: %s", trial.version, verdict.words)
            ring(redis_url, trial.version)
            done.append(verdict.words)
    return done


def act_on(store: Store, settings: Settings, trial: Trial, evidence: Evidence, verdict: Verdict) -> bool:
    """Make a move, if the trial is what it was; says whether it was made."""
    try:
        with store.session() as session:
            learning.lock(session)
            now = {one.entered: one for one in read_trials(session, settings.watch_seconds) if one.kind == trial.kind}
            same = now.get(trial.entered)
            if same is None or same.against_id != trial.against_id or waits(session, verdict):
                return False
            move(session, settings, trial, evidence, verdict)
    except Conflict as error:
        log.warning("version %d stays where it is: %s", trial.version, error.message)
        return False
    return True


def waits(session: Session, verdict: Verdict) -> bool:
    """Whether a verdict has to wait: what serves is pinned, or another policy is in canary."""
    if verdict.step == "canary":
        return policy_life.in_state(session, "canary") is not None
    return verdict.step in {"promote", "watched_back"} and learning.read(session).pinned_at is not None


def move(session: Session, settings: Settings, trial: Trial, evidence: Evidence, verdict: Verdict) -> None:
    """Do what a verdict says; the caller holds the lock."""
    figures = trials.figures(trial, evidence, settings)
    if verdict.step == "watched_back":
        policy_life.rollback(session, WATCH, trial.against_id, verdict.words, figures=figures)
    elif verdict.step == "promote":
        policy_life.promote(
            session, trial.checkpoint_id, verdict.words, ACTOR, expected=trial.against_id, figures=figures
        )
        learning.recover(session)
    else:
        policy_life.move(session, trial.checkpoint_id, verdict.step, verdict.words, ACTOR, figures=figures)
    if verdict.step in {"refuse", "roll_back"}:
        learning.back_off(session, settings.freeze_after)


class TrialClock:
    """Looks at trials for as long as the block lasts, on a thread of its own."""

    def __init__(self, store: Store, settings: Settings, redis_url: str) -> None:
        self._store, self._settings, self._redis_url = store, settings, redis_url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lepo-trials", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._thread.join(self._settings.trial_interval)

    def _run(self) -> None:
        began = time.monotonic()
        while not self._over.wait(max(0.0, self._settings.trial_interval - (time.monotonic() - began))):
            began = time.monotonic()
            with ExitStack() as held:
                held.push(failed_look)
                look(self._store, self._settings, self._redis_url)


def failed_look(_kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None) -> bool:
    """Log a look that failed, whatever it failed of: the next one comes, and trials must not be without a clock."""
    if isinstance(error, Unavailable):
        log.warning("trials are not looked at now: %s", error.message)
    elif error is not None:
        log.error("a look at trials failed", exc_info=error)
    return isinstance(error, Exception)
