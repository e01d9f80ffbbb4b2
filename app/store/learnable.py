"""What could be learned from now, and if nothing, why not; reading only.

An update begins when enough graded answers wait, of keys each within its share, with some contrast among their rewards,
and nothing says wait: no freeze, no pin, no undecided policy, no pause after a failure. The same answer serves the
worker, which acts on it, and the operator, who asks why nothing is learned. Any backlog costs the same: each key's
newest and oldest answers are looked at through windows, and the worst and best rewarded of all, so that whatever is
deep in a backlog can still be what is missing. Leaves out taking (`app.store.claims`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil
from typing import Final
from uuid import UUID

from sqlalchemy import CTE, Text, and_, any_, func, literal, or_, select, true, union_all
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session, aliased

from app.settings import Settings
from app.store import jobs, learning, policy_life
from app.store.claims import OF_SESSION, any_of, bundle, fresh
from app.store.grades import graded_by
from app.store.key_quota import Group, choose
from app.store.tables import Interaction, Job, StoredRequest

LONGEST_PAUSE: Final = timedelta(minutes=5)
SMALLEST_WINDOW: Final = 2  # newest answers seen of each key, however many keys there are
EXTREMES: Final = 4  # answers seen of those with the least reward, and of those with the greatest
MOST_COUNTED: Final = 10_000  # waiting answers beyond which nobody counts on


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the next update would learn from, or why there is none."""

    words: str | None  # why no update begins now; None: one can
    groups: Mapping[str, Sequence[UUID]] = field(default_factory=dict)  # bundle -> its answers to learn from
    charged: Mapping[str, str] = field(default_factory=dict)  # bundle -> API key it counts for, of the chosen


@dataclass(frozen=True, slots=True)
class _Ready:
    """A response, or the credited turns of an episode, whose graded answers can be taken together."""

    group: Group
    ids: Sequence[UUID]
    values: frozenset[float]  # rewards of its answers
    corrected: bool  # whether one of them was only corrected, without a number
    graded_at: datetime  # of the answer that has waited longest


def outlook(session: Session, settings: Settings) -> Outlook:
    """Look whether an update should begin by itself."""
    if (words := stopped(session, settings)) is not None:
        return Outlook(words)
    return offer(session, settings)


def stopped(session: Session, settings: Settings) -> str | None:
    """Say why no update may begin, however much there is to learn; None: it may."""
    control = learning.read(session)
    if not settings.learn:
        return "learning is off (LEPO_LEARN)"
    if control.frozen_at is not None:
        return f"frozen by {control.frozen_by}: {control.frozen_reason}"
    if control.pinned_at is not None:
        return f"what serves is pinned by {control.pinned_by}: {control.pinned_reason}"
    if waiting := policy_life.undecided(session):
        return f"version {waiting[0].version} is {waiting[0].state} and waits for a decision: promote or discard it"
    if policy_life.serving(session) is None:
        return "nothing serves yet"
    return paused(session, settings)


def paused(session: Session, settings: Settings) -> str | None:
    """Say whether it is too early after the last update: the configured pace, or a pause after failures."""
    failures = jobs.failures_in_a_row(session)
    pause = timedelta(seconds=settings.update_interval)
    if failures:
        pause = max(pause, min(LONGEST_PAUSE, timedelta(seconds=settings.learn_interval) * 2 ** (failures - 1)))
    ended, now = session.execute(select(func.max(Job.finished_at), func.clock_timestamp())).one()
    left = timedelta(0) if ended is None else ended + pause - now
    if left <= timedelta(0):
        return None
    why = "the pace of updates (LEPO_UPDATE_INTERVAL)"
    if failures:
        many = "the last job" if failures == 1 else f"the last {failures} jobs"
        why = f"{many} failed for want of something (disk, memory, database); its row says of what"
    return f"waiting {ceil(left.total_seconds())} s more: {why}"


def offer(session: Session, settings: Settings, *, anything: bool = False) -> Outlook:
    """Choose what an update would learn from.

    Args:
        session: a transaction.
        settings: `min_grades`, `max_grades`, `key_share` and the patiences.
        anything: somebody asked for an update: take what there is, however little.

    """
    scale = learning.read(session).batch_scale
    most = max(2, round(settings.max_grades * scale))
    goal = wanted = max(2, round(settings.min_grades * scale))
    ready = ready_groups(session, most, timedelta(seconds=settings.group_grace))
    if not settings.correction_weight:
        ready = [one for one in ready if one.values]
    waiting = sum(one.group.size for one in ready)
    if anything:
        wanted = 1
    elif waiting < goal and overdue(session, ready, settings.grade_patience):
        wanted = 2
    if waiting < wanted:
        return Outlook(f"too few grades: {waiting} of {wanted} answers wait")
    fill = goal if anything or overdue(session, ready, settings.key_patience, since_last_job=True) else 0
    found = with_contrast(ready, most, settings.key_share, fill)
    total = sum(one.group.size for one in found)
    if total < wanted:
        return Outlook(
            f"too few grades by other keys: {waiting} answers wait, {total} of {wanted} are within each key's share "
            f"(LEPO_KEY_SHARE={settings.key_share:g}); any key fills up after LEPO_KEY_PATIENCE"
        )
    contrast = len(values_of(found)) > 1 or any(one.corrected for one in found)
    contrast = contrast or (settings.resample > 1 and gradable(session, found))
    if not anything and not contrast:
        return Outlook(f"no contrast: all of {total} answers have the same reward; grade some that are better or worse")
    groups = {one.group.name: one.ids for one in found}
    return Outlook(None, groups, {one.group.name: one.group.key for one in found})


def with_contrast(ready: Sequence[_Ready], most: int, share: float, at_least: int) -> list[_Ready]:
    """Choose responses; where all chosen rewards are alike, begin with the first response that differs."""
    by_name = {one.group.name: one for one in ready}

    def chosen(order: Sequence[_Ready]) -> list[_Ready]:
        return [by_name[one.name] for one in choose([one.group for one in order], most, share, at_least=at_least)]

    found = chosen(ready)
    common = values_of(found)
    if len(found) == len(ready) or len(common) > 1:
        return found
    other = next((one for one in ready if not one.values <= common), None)
    return found if other is None else chosen([other, *(one for one in ready if one is not other)])


def values_of(found: Sequence[_Ready]) -> frozenset[float]:
    """Give the different rewards of some responses."""
    return frozenset[float]().union(*(one.values for one in found))


def gradable(session: Session, found: Sequence[_Ready]) -> bool:
    """Whether a request among these named a grader, so that the worker can make a contrast by answering anew."""
    ids = [each for one in found for each in one.ids]
    query = select(Interaction.id).join(StoredRequest, StoredRequest.id == Interaction.request_id)
    query = query.where(Interaction.id == any_of(ids), StoredRequest.grader.is_not(None)).limit(1)
    return session.scalar(query) is not None


def count_waiting(session: Session) -> int:
    """Count graded answers that nothing was learned from yet, up to `MOST_COUNTED`."""
    some = select(literal(1)).where(fresh()).limit(MOST_COUNTED).subquery()
    return session.scalars(select(func.count()).select_from(some)).one()


def overdue(
    session: Session, ready: Sequence[_Ready], patience_s: float | None, *, since_last_job: bool = False
) -> bool:
    """Whether the oldest answer (or the end of the last job, if that was later) is longer ago than a patience."""
    if patience_s is None or not ready:
        return False
    since = min(one.graded_at for one in ready)
    if since_last_job:
        ended = session.scalar(select(func.max(Job.finished_at)))
        since = since if ended is None else max(since, ended)
    now: datetime = session.scalars(select(func.clock_timestamp())).one()
    return now - since >= timedelta(seconds=patience_s)


def ready_groups(session: Session, most: int, grace: timedelta) -> list[_Ready]:
    """Find responses and episodes whose fresh answers can be taken together, those of the newest policy first.

    A response is ready when all its choices are graded, or when its oldest grade has waited for `grace`; the turns of
    an episode that its grade credits are graded together.
    """
    seen = _seen(session, most)
    if not seen:
        return []
    named = any_(literal([one for one in seen if not one.startswith(OF_SESSION)], ARRAY(Text)))
    episodes = any_of([UUID(one.removeprefix(OF_SESSION)) for one in seen if one.startswith(OF_SESSION)])
    within = or_(
        and_(Interaction.completion_id == named, ~Interaction.credited),
        and_(Interaction.session_id == episodes, Interaction.credited),
    )
    name = bundle().label("bundle")
    settled = or_(
        Interaction.graded_at.is_not(None),
        Interaction.learnable.is_(False),
        Interaction.claimed,
        Interaction.grading_state == "failed",
    )
    complete = and_(func.count().filter(settled) == func.max(Interaction.group_size))
    oldest = func.min(Interaction.graded_at).filter(fresh())
    query = (
        select(
            name,
            func.array_agg(Interaction.id).filter(fresh()),
            func.array_agg(Interaction.reward).filter(fresh()),
            oldest,
        )
        .where(within)
        .group_by(name)
        .having(or_(complete, func.bool_or(Interaction.credited), oldest <= func.now() - grace))
        .order_by(func.max(Interaction.policy_version).desc(), oldest.desc(), name)
    )
    rows = [(name, ids, values, at) for name, ids, values, at in session.execute(query) if ids and at]
    keys = charged(session, {name: ids for name, ids, _, _ in rows}, seen)
    return [
        _Ready(Group(name, keys[name], len(ids)), ids, frozenset(_numbers(values)), None in values, at)
        for name, ids, values, at in rows
    ]


def _numbers(values: Sequence[float | None]) -> list[float]:
    """Leave out the rewards of answers that were only corrected."""
    return [value for value in values if value is not None]


def charged(session: Session, groups: Mapping[str, Sequence[UUID]], asked: Mapping[str, str]) -> dict[str, str]:
    """Name the API key that each bundle counts for: the grader's, since a grade is what poisons; else the asker's.

    Where several keys graded it counts for the one that graded most of what is offered, so that a flood cannot hide
    behind an answer somebody else graded too.
    """
    by_answer = graded_by(session, [one for ids in groups.values() for one in ids])
    by_group = {name: {key for one in ids for key in by_answer.get(one, ())} for name, ids in groups.items()}
    counts = Counter(key for keys in by_group.values() for key in keys)
    return {
        name: max(keys, key=lambda key: (counts[key], key)) if keys else asked[name] for name, keys in by_group.items()
    }


def _seen(session: Session, most: int) -> dict[str, str]:
    """Look at some fresh answers, by indexes alone: bundle -> key.

    Of each key the newest, and fewer of the oldest: the newest may all be of responses that still wait for a grade. Of
    all keys those with the least and the greatest reward: where there is contrast at all, it is among them.
    """
    keys = _keys()
    count = session.scalar(select(func.count()).select_from(keys).where(keys.c.key.is_not(None))) or 0
    if not count:
        return {}
    each = max(SMALLEST_WINDOW, 2 * most // count)
    both = select(bundle().label("bundle"), Interaction.charged_key_id).where(fresh())
    mine = both.where(Interaction.charged_key_id == keys.c.key)
    newest = mine.order_by(Interaction.policy_version.desc(), Interaction.graded_at.desc()).limit(each).lateral()
    oldest = mine.order_by(Interaction.policy_version, Interaction.graded_at).limit(max(1, each // 4)).lateral()
    worst = both.order_by(Interaction.reward).limit(EXTREMES).subquery()
    best = both.order_by(Interaction.reward.desc()).limit(EXTREMES).subquery()
    windows = (select(window).select_from(keys.join(window, true())) for window in (newest, oldest))
    query = union_all(*windows, select(worst), select(best))
    return {row.bundle: row.charged_key_id for row in session.execute(query)}


def _keys() -> CTE:
    """Give the keys that fresh answers count for as a table with one column, `key`, hopping through the index."""
    first = select(func.min(Interaction.charged_key_id).label("key")).where(fresh()).cte("keys", recursive=True)
    after = aliased(Interaction)
    next_key = (
        select(func.min(after.charged_key_id))
        .where(
            after.charged_key_id > first.c.key,
            after.graded_at.is_not(None),
            after.learnable,
            ~after.claimed,
        )
        .scalar_subquery()
    )
    return first.union_all(select(next_key).where(first.c.key.is_not(None)))
