"""The life of a policy: which state a checkpoint is in, which events move it, and what a move means for its claims.

                 +--> held ---------+
    candidate ---+--> shadow -------+--> canary --> serving --> retired
                 +--> refused       |                  ^           |
                                    +------------------+-----------+ (an operator may serve any of these again)
    serving --> rolled_back, canary --> rolled_back, held | shadow | canary --> refused (discarded)
    (a trial that expires without evidence ends like one that failed, but the answers are given back)

`LIFE` is the whole of it: a pair (state, event) that is not in the table cannot happen. Every move is one row of
`transitions`, in the transaction that makes it; moves are made one at a time, under the lock of the row `learning`, and
a promotion may name what it expects to replace. Leaves out how a server takes new weights (`app.engine`), freezing and
pinning (`app.store.learning`) and who contains what (`app.store.lineage`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, cast
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import Conflict
from app.store import claims, learning
from app.store.base import Json
from app.store.checkpoints import get_checkpoint
from app.store.claims import Settlement
from app.store.tables import Checkpoint, Transition

State = Literal["candidate", "held", "refused", "shadow", "canary", "serving", "retired", "rolled_back"]
Event = Literal["promote", "hold", "refuse", "shadow", "canary", "retire", "roll_back", "discard", "expire"]

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
        ("rolled_back", "promote"): Move("serving"),
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
    """Find what served before this checkpoint's last promotion; None if nothing did."""
    query = (
        select(Checkpoint)
        .join(Transition, Transition.replaced_id == Checkpoint.id)
        .where(Transition.checkpoint_id == checkpoint_id, Transition.event == "promote")
        .order_by(Transition.id.desc())
        .limit(1)
    )
    return session.scalar(query)


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
        Conflict: its state does not allow the event.

    """
    learning.lock(session)
    row = get_checkpoint(session, checkpoint_id)
    session.refresh(row)
    state = cast("State", row.state)  # the column is constrained to these words
    done = LIFE.get((state, event))
    if done is None:
        allowed = sorted(name for state, name in LIFE if state == row.state)
        raise Conflict(
            f"Version {row.version} is {row.state}; '{event}' is not possible from there "
            f"(possible: {', '.join(allowed) or 'nothing'})"
        )
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
        expected: what must be serving for this to happen; None: whatever serves.
        figures: what the decision rests on.

    Returns:
        The transition; None if it is served already, in which case nothing changes.

    Raises:
        NotFound: there is no such checkpoint.
        Overtaken: another than `expected` serves.
        Conflict: its state does not allow it, its files are gone, or what serves is pinned.

    """
    control = learning.lock(session)
    target = get_checkpoint(session, checkpoint_id)
    if expected is not None:
        require_serving(session, expected, target)
    before = serving(session)
    if before is not None and before.id == target.id:
        return None
    if control.pinned_at is not None:
        raise Conflict(f"What serves is pinned by {control.pinned_by} ({control.pinned_reason}); unpin it first")
    return serve(session, before, target, reason, actor, leaving="retire", figures=figures)


def require_serving(session: Session, expected: UUID, successor: Checkpoint) -> None:
    """Make sure that what a policy was made to follow still serves; the caller holds the lock.

    Raises:
        Overtaken: it does not.

    """
    now = serving(session)
    if now is None or now.id != expected:
        what = "nothing" if now is None else f"version {now.version}"
        raise Overtaken(f"Version {successor.version} was made to follow another policy; {what} serves by now")


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
        to: the policy to serve; None: the one that served before the serving one's promotion.
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
    target = None if to is None else get_checkpoint(session, to)
    if before is None:
        raise Conflict("Nothing serves, so there is nothing to roll back")
    if target is None:
        target = served_before(session, before.id)
    if target is None:
        raise Conflict(f"Nothing served before version {before.version}, so there is nothing to roll back to")
    if target.id == before.id:
        return None
    for waiting in undecided(session):
        if waiting.id != target.id:
            move(session, waiting.id, "discard", f"version {before.version} was rolled back", actor)
    entry = serve(session, before, target, reason, actor, leaving="roll_back", figures=figures)
    learning.freeze(session, actor, f"version {before.version} was rolled back to {target.version}: {reason}")
    return entry


def serve(
    session: Session,
    before: Checkpoint | None,
    target: Checkpoint,
    reason: str,
    actor: str,
    *,
    leaving: Literal["retire", "roll_back"],
    figures: Json | None = None,
) -> Transition:
    """Put one policy in the place of another; the caller holds the lock.

    Raises:
        Conflict: its state does not allow it, or its files are gone.

    """
    if target.files_deleted_at is not None:
        raise Conflict(f"The files of version {target.version} were deleted (LEPO_KEEP_CHECKPOINTS)")
    if (cast("State", target.state), "promote") not in LIFE:
        raise Conflict(f"Version {target.version} is {target.state} and cannot be served")
    if before is not None:
        move(session, before.id, leaving, f"version {target.version} serves: {reason}", actor)
    replaced = None if before is None else before.id
    return move(session, target.id, "promote", reason, actor, figures=figures, replaced=replaced)


def history(
    session: Session, *, checkpoint_id: UUID | None = None, limit: int = 100, before: UUID | None = None
) -> list[Transition]:
    """List transitions, the newest first; continue with the last one's id as `before`."""
    query = select(Transition).order_by(Transition.id.desc()).limit(limit)
    if checkpoint_id is not None:
        query = query.where(Transition.checkpoint_id == checkpoint_id)
    if before is not None:
        query = query.where(Transition.id < before)
    return list(session.scalars(query))
