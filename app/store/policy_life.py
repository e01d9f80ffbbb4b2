"""The life of a policy: which state a checkpoint is in, which events move it, and what a move means for its claims.

                 +--> held ---------+
    candidate ---+--> shadow -------+--> canary --> serving --> retired
                 +--> refused       |                  ^           |
                                    +------------------+-----------+ (an operator may serve any of these again)
    serving --> rolled_back, canary --> rolled_back, held | shadow | canary --> refused (discarded)
    (a trial that expires without evidence ends like one that failed, but the answers are given back)

`LIFE` is the whole of it: a pair (state, event) that is not in the table cannot happen. Every move is one row of
`transitions`, in the transaction that makes it; moves are made one at a time, under the lock of the row `learning`, and
a promotion may name what it expects to replace. `restore` is the promotion of a rollback, by a person or by a rule
(`fall_back`): it is no new beginning, so that rollbacks in a row go further back, and never forward to what was rolled
back. Leaves out how a server takes new
weights (`app.engine`), freezing and pinning (`app.store.learning`) and who contains what (`app.store.lineage`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, cast
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import Conflict, NotFound
from app.identifiers import show
from app.store import claims, learning
from app.store.base import Json
from app.store.checkpoints import by_version, get_checkpoint
from app.store.claims import Settlement
from app.store.tables import Checkpoint, Transition

State = Literal["candidate", "held", "refused", "shadow", "canary", "serving", "retired", "rolled_back"]
Event = Literal["promote", "restore", "hold", "refuse", "shadow", "canary", "retire", "roll_back", "discard", "expire"]

ALONE: Final = frozenset({"serving", "shadow", "canary"})  # states that one policy at a time may be in
UNDECIDED: Final[tuple[State, ...]] = ("candidate", "held", "shadow", "canary")


@dataclass(frozen=True, slots=True)
class Move:
    """What an event does in a state."""

    to: State
    claims: Settlement = "keep"  # what becomes of the answers this policy was made from


LIFE: Final[Mapping[tuple[State, Event], Move]] = MappingProxyType(
    {
        ("candidate", "promote"): Move("serving", "learn"),
        ("candidate", "hold"): Move("held"),
        ("candidate", "refuse"): Move("refused", "refuse"),
        ("candidate", "shadow"): Move("shadow"),
        ("candidate", "canary"): Move("canary"),
        ("candidate", "discard"): Move("refused", "release"),
        ("held", "promote"): Move("serving", "learn"),
        ("held", "shadow"): Move("shadow"),
        ("held", "canary"): Move("canary"),
        ("held", "discard"): Move("refused", "release"),
        ("shadow", "promote"): Move("serving", "learn"),
        ("shadow", "canary"): Move("canary"),
        ("shadow", "refuse"): Move("refused", "refuse"),
        ("shadow", "discard"): Move("refused", "release"),
        ("shadow", "expire"): Move("refused", "release"),
        ("canary", "promote"): Move("serving", "learn"),
        ("canary", "roll_back"): Move("rolled_back", "refuse"),
        ("canary", "discard"): Move("refused", "release"),
        ("canary", "expire"): Move("rolled_back", "release"),
        ("serving", "retire"): Move("retired"),
        ("serving", "roll_back"): Move("rolled_back"),
        ("retired", "promote"): Move("serving"),
        ("retired", "restore"): Move("serving"),
        ("rolled_back", "promote"): Move("serving"),
        ("rolled_back", "restore"): Move("serving"),
    }
)


class Overtaken(Conflict):
    """What serves is not what the caller expected: somebody else moved first, and theirs stands."""

    default_code = "overtaken"


def serving(session: Session) -> Checkpoint | None:
    """Read the checkpoint to serve; None before the first promotion."""
    return in_state(session, "serving")


def in_state(session: Session, state: State) -> Checkpoint | None:
    """Read the newest checkpoint in a state; there is at most one in `serving`, `shadow` and `canary`."""
    query = select(Checkpoint).where(Checkpoint.state == state).order_by(Checkpoint.version.desc()).limit(1)
    return session.scalar(query.execution_options(populate_existing=True))


def undecided(session: Session) -> list[Checkpoint]:
    """List the policies that wait for a decision, the oldest first. No update begins while there is one."""
    query = select(Checkpoint).where(Checkpoint.state.in_(UNDECIDED)).order_by(Checkpoint.version)
    return list(session.scalars(query.execution_options(populate_existing=True)))


def served_before(session: Session, checkpoint_id: UUID) -> Checkpoint | None:
    """Find what a rollback from this checkpoint serves: the last policy that served before its last promotion.

    What was rolled back itself, or has no files any more, is passed over. None if nothing is left.
    """
    promoted = select(func.max(Transition.entry)).where(
        Transition.checkpoint_id == checkpoint_id, Transition.event == "promote"
    )
    query = (
        select(Checkpoint)
        .join(Transition, Transition.replaced_id == Checkpoint.id)
        .where(
            Transition.event == "promote",
            Transition.entry <= promoted.scalar_subquery(),
            Checkpoint.id != checkpoint_id,
            Checkpoint.state == "retired",
            Checkpoint.files_deleted_at.is_(None),
        )
        .order_by(Transition.entry.desc())
        .limit(1)
    )
    return session.scalar(query.execution_options(populate_existing=True))


def move(
    session: Session,
    checkpoint_id: UUID,
    event: Event,
    reason: str,
    actor: str,
    *,
    figures: Json | None = None,
    replaced: UUID | None = None,
) -> Transition:
    """Let an event happen to a policy.

    Args:
        session: a transaction.
        checkpoint_id: the policy.
        event: what happens; to serve one, `promote` sees to the one that served.
        reason: in a sentence.
        actor: a key's id, a login's name, or the name of a part of this product.
        figures: what the decision rests on.
        replaced: with a promotion, what served until now.

    Raises:
        NotFound: there is no such checkpoint.
        Conflict: its state does not allow the event, or another policy is where only one may be.

    """
    row = locked(session, checkpoint_id)
    done = allowed(row, event)
    if done.to in ALONE and (other := in_state(session, done.to)) is not None:
        raise Conflict(f"Version {other.version} is in {done.to} already, and only one policy may be; move it first")
    entry = Transition(
        checkpoint_id=row.id,
        from_state=row.state,
        to_state=done.to,
        event=event,
        replaced_id=replaced,
        actor=actor,
        reason=reason,
        figures=figures or {},
        job_id=row.job_id,
    )
    row.state = done.to
    session.add(entry)
    session.flush()
    if row.job_id is not None:
        claims.settle(session, row.job_id, done.claims)
    return entry


def try_out(
    session: Session, checkpoint_id: UUID, stage: Literal["shadow", "canary"], reason: str, actor: str
) -> Transition | None:
    """Put a policy on trial; None if it is at that stage already, in which case nothing changes.

    Raises:
        NotFound: there is no such checkpoint.
        Conflict: its state does not allow it, its files are gone, or another policy is at that stage.

    """
    learning.lock(session)
    target = get_checkpoint(session, checkpoint_id)
    session.refresh(target)
    if target.state == stage:
        return None
    if target.files_deleted_at is not None:
        raise Conflict(f"The files of version {target.version} were deleted (LEPO_KEEP_CHECKPOINTS)")
    if (other := in_state(session, stage)) is not None:
        raise Conflict(f"Version {other.version} is in {stage}; promote or discard it first")
    return move(session, target.id, stage, reason, actor)


def promote(
    session: Session,
    checkpoint_id: UUID,
    reason: str,
    actor: str,
    *,
    expected: UUID | None = None,
    figures: Json | None = None,
) -> Transition | None:
    """Serve a checkpoint; what served is retired.

    Args:
        session: a transaction.
        checkpoint_id: what to serve.
        reason: in a sentence.
        actor: who or what wants it.
        expected: what must be serving for this to happen, unless the wish is true already; None: whatever serves.
        figures: what the decision rests on.

    Returns:
        The transition; None if it is served already, in which case nothing changes.

    Raises:
        NotFound: there is no such checkpoint.
        Overtaken: another than `expected` serves.
        Conflict: its state does not allow it, its files are gone, or what serves is pinned.

    """
    control = learning.lock(session)
    target = locked(session, checkpoint_id)
    before = serving(session)
    if before is not None and before.id == target.id:
        return None
    if expected is not None:
        require_serving(session, expected, target)
    if control.pinned_at is not None:
        raise Conflict(f"What serves is pinned by {control.pinned_by} ({control.pinned_reason}); unpin it first")
    return serve(session, before, target, reason, actor, by="promote", figures=figures)


def discard(session: Session, checkpoint_id: UUID, reason: str, actor: str) -> Transition | None:
    """Turn down a policy that waits for a decision, and give its answers back.

    Returns:
        The transition; None if it was turned down before: then nothing changes.

    Raises:
        NotFound: there is no such checkpoint.
        Conflict: it waits for no decision.

    """
    if locked(session, checkpoint_id).state == "refused":
        return None
    return move(session, checkpoint_id, "discard", reason, actor)


def require_serving(session: Session, expected: UUID, successor: Checkpoint) -> None:
    """Make sure that what a policy was made to follow still serves; the caller holds the lock.

    Raises:
        Overtaken: it does not.

    """
    now = serving(session)
    if now is None or now.id != expected:
        what = "nothing" if now is None else f"version {now.version}"
        raise Overtaken(
            f"Version {successor.version} was to follow another policy; {what} serves by now, so nothing was changed"
        )


def rollback(
    session: Session,
    actor: str,
    to: UUID | None = None,
    reason: str = "rolled back by an operator",
    *,
    figures: Json | None = None,
) -> Transition | None:
    """Serve an earlier policy again, and freeze learning until somebody thaws it.

    What serves now is `rolled_back`; policies that wait for a decision are discarded, and their answers given back. A
    pin does not stand in the way: it moves along to what serves then.

    Args:
        session: a transaction.
        actor: who or what wants it.
        to: the policy to serve, which served before; None: the one that did before the serving one's promotion.
        reason: in a sentence.
        figures: what the decision rests on.

    Returns:
        The transition; None if `to` serves already: then nothing changes.

    Raises:
        NotFound: there is no checkpoint `to`.
        Conflict: nothing served before, or `to` cannot be served.

    """
    learning.lock(session)
    before = serving(session)
    target = None if to is None else locked(session, to)
    if before is None:
        raise Conflict("Nothing serves, so there is nothing to roll back")
    if target is None:
        target = served_before(session, before.id)
    if target is None:
        raise Conflict(
            f"Nothing that served before version {before.version} is left to roll back to; name a version to serve"
        )
    if target.id == before.id:
        return None
    entry = serve(session, before, target, reason, actor, by="restore", figures=figures)
    for waiting in undecided(session):
        move(session, waiting.id, "discard", f"version {before.version} was rolled back", actor)
    learning.freeze(session, actor, f"version {before.version} was rolled back to {target.version}: {reason}")
    return entry


def fall_back(
    session: Session, expected: UUID, version: int, reason: str, actor: str, *, figures: Json
) -> Transition | None:
    """Serve a forebear again that is shown to be better than what serves; learning goes on from there.

    What a person put there stays until a person moves it, and so does what is pinned.

    Args:
        session: a transaction.
        expected: the policy that must be serving.
        version: of the forebear.
        reason: in a sentence.
        actor: the part of this product that found it.
        figures: what it rests on, not empty.

    Returns:
        The transition; None where what serves is to stay, or the forebear cannot serve: then nothing changes.

    """
    control = learning.lock(session)
    now, target = serving(session), by_version(session, version)
    session.refresh(target)
    if now is None or now.id != expected or not served_by_evidence(session, now.id):
        return None
    if control.pinned_at is not None or control.frozen_at is not None:
        return None
    if target.state != "retired" or target.files_deleted_at is not None:
        return None
    learning.start_over(session)
    return serve(session, now, target, reason, actor, by="restore", figures=figures)


def served_by_evidence(session: Session, checkpoint_id: UUID) -> bool:
    """Tell whether a policy serves because a gate or a trial said so: a person's word has no figures."""
    query = select(Transition.figures).where(
        Transition.checkpoint_id == checkpoint_id,
        Transition.to_state == "serving",
        Transition.from_state != "serving",
    )
    return bool(session.scalar(query.order_by(Transition.entry.desc()).limit(1)))


def serve(
    session: Session,
    before: Checkpoint | None,
    target: Checkpoint,
    reason: str,
    actor: str,
    *,
    by: Literal["promote", "restore"],
    figures: Json | None = None,
) -> Transition:
    """Put one policy in the place of another, which retires or, by `restore`, is rolled back.

    The caller holds the lock, and read both under it.

    Raises:
        Conflict: its state does not allow it, its files are gone, or its answers were given back.

    """
    allowed(target, by)
    if target.files_deleted_at is not None:
        raise Conflict(f"The files of version {target.version} were deleted (LEPO_KEEP_CHECKPOINTS); serve another one")
    if target.state == "rolled_back" and not has_served(session, target.id):
        raise Conflict(
            f"Version {target.version} never served: it was taken back, and the answers it was made from were given "
            "back, so that others may have learned from them; serve another one"
        )
    if before is not None:
        leaving: Event = "retire" if by == "promote" else "roll_back"
        move(session, before.id, leaving, f"version {target.version} serves: {reason}", actor)
    replaced = None if before is None else before.id
    return move(session, target.id, by, reason, actor, figures=figures, replaced=replaced)


def has_served(session: Session, checkpoint_id: UUID) -> bool:
    """Tell whether a policy ever served."""
    query = select(Transition.id).where(Transition.checkpoint_id == checkpoint_id, Transition.to_state == "serving")
    return session.scalar(query.limit(1)) is not None


def locked(session: Session, checkpoint_id: UUID) -> Checkpoint:
    """Read a policy as it is now, and let nobody else move one until the transaction ends.

    Raises:
        NotFound: there is no such checkpoint.

    """
    learning.lock(session)
    row = get_checkpoint(session, checkpoint_id)
    session.refresh(row)
    return row


def allowed(row: Checkpoint, event: Event) -> Move:
    """Look up what an event does to a policy now.

    Raises:
        Conflict: nothing: its state does not allow the event.

    """
    done = LIFE.get((cast("State", row.state), event))  # the column is constrained to these words
    if done is None:
        possible = sorted(name for state, name in LIFE if state == row.state)
        raise Conflict(
            f"Version {row.version} is {row.state}; '{event}' is not possible from there "
            f"(possible: {', '.join(possible) or 'nothing'})"
        )
    return done


def history(
    session: Session, *, checkpoint_id: UUID | None = None, limit: int = 100, before: UUID | None = None
) -> list[Transition]:
    """List transitions, the newest first; continue with the last one's id as `before`.

    Raises:
        NotFound: there is no transition `before`.

    """
    query = select(Transition).order_by(Transition.entry.desc()).limit(limit)
    if checkpoint_id is not None:
        query = query.where(Transition.checkpoint_id == checkpoint_id)
    if before is not None:
        last = session.get(Transition, before)
        if last is None:
            raise NotFound(f"There is no transition {show('move', before)}")
        query = query.where(Transition.entry < last.entry)
    return list(session.scalars(query))
