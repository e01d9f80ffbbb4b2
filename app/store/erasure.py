"""Erasing what somebody asked to have removed: all of a user's answers, a session's, or one answer, in batches.

    begin  -> the wish is a row of `erasures`: who wanted it, whose data, in digest
    step   -> a batch goes, in one transaction (`app.store.removal`); 0 left: the wish is fulfilled

Asking again goes on where the first stopped, or finds nothing. An update under way that holds such an answer is asked
to end, and gives back what it claims; one that is past that, and policies made before, contain the answer, and
`containing` says which. Nobody can bring a removed answer back: what learning still writes about it goes to its claim.
Leaves out answers that are still being generated: they are stored when they end, and go when asked again.
"""

import hashlib
import hmac
from collections import Counter
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import Select, and_, func, or_, select, update
from sqlalchemy.orm import Session

from app.store import lineage
from app.store.claims import any_of
from app.store.removal import remove, remove_empty
from app.store.removed import Erasure, Tombstone
from app.store.signing import shared_secret
from app.store.tables import Checkpoint, Claim, Interaction, Job

DIGESTED_UNDER: Final = "erasures"  # the name, in `secrets`, of what subjects are digested under
BATCH: Final = 500  # answers a transaction removes; a rollout is some tens of KB
CAN_SERVE: Final = ("candidate", "held", "shadow", "canary", "serving", "retired", "rolled_back")


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose data: a user's (as requests named it), a session, or one answer."""

    user: str | None = None
    key_id: str | None = None  # with a user: only what this key asked; the same name may mean two people
    interaction_id: UUID | None = None
    project_id: str | None = None  # with a user: only what this project's keys asked; None: all
    session_id: UUID | None = None

    @property
    def kind(self) -> str:
        """Say what is named."""
        if self.session_id is not None:
            return "session"
        return "user" if self.interaction_id is None else "interaction"

    def answers(self) -> Select[UUID]:
        """Select the ids of the answers that are still there, in their order."""
        query = select(Interaction.id).order_by(Interaction.id)
        if self.session_id is not None:
            turns = select(Interaction.completion_id).where(Interaction.session_id == self.session_id)
            return query.where(or_(Interaction.session_id == self.session_id, Interaction.shadow_of.in_(turns)))
        if self.interaction_id is not None:
            mine = select(Interaction.completion_id).where(Interaction.id == self.interaction_id).scalar_subquery()
            return query.where(or_(Interaction.id == self.interaction_id, Interaction.shadow_of == mine))
        query = query.where(Interaction.user_tag == self.user)
        if self.project_id is not None:
            query = query.where(Interaction.project_id == self.project_id)
        return query if self.key_id is None else query.where(Interaction.api_key_id == self.key_id)

    def digest(self, session: Session) -> bytes:
        """Name the subject so that only who knows it finds it again."""
        name = f"{self.kind}\n{self.key_id or ''}\n{self.session_id or self.interaction_id or self.user}"
        if self.project_id is not None:
            name += f"\n{self.project_id}"
        return hmac.digest(shared_secret(session, DIGESTED_UNDER), name.encode("utf-8", "replace"), hashlib.sha256)


@dataclass(frozen=True, slots=True)
class Container:
    """A policy that was made from removed answers, itself or by its ancestors."""

    version: int
    state: str  # in the life of a policy
    answers: int  # removed ones in it


def begin(session: Session, subject: Subject, actor: str) -> Erasure:
    """Write a wish down."""
    row = Erasure(
        actor=actor,
        subject=subject.kind,
        subject_hmac=subject.digest(session),
        api_key_id=subject.key_id,
        project_id=subject.project_id,
        removed={},
    )
    session.add(row)
    session.flush()
    return row


def step(session: Session, erasure_id: UUID, subject: Subject, *, limit: int = BATCH) -> int:
    """Remove a batch of answers.

    Rows are locked in the order in which learning locks them: the job, then its answers.

    Returns:
        How many answers went; 0: none is left, and the wish is marked as fulfilled.

    """
    running = session.scalar(select(Job).where(Job.status == "running").with_for_update())
    ids = list(session.scalars(subject.answers().limit(limit).with_for_update(of=Interaction)))
    row = session.get_one(Erasure, erasure_id, with_for_update=True, populate_existing=True)
    if not ids:
        end_holders(session)
        if subject.session_id is not None:
            row.removed = dict(Counter(row.removed) + remove_empty(session, [subject.session_id]))
        row.finished_at = func.now()
        return 0
    row.removed = dict(Counter(row.removed) + remove(session, ids, erasure_id))
    held = select(Claim.job_id).where(Claim.interaction_id == any_of(ids), Claim.outcome == "claimed")
    if running is not None and running.id in set(session.scalars(held)):
        running.cancel_requested = True
    return len(ids)


def end_holders(session: Session) -> None:
    """Ask every update that holds an answer somebody had removed to end."""
    holding = select(Claim.job_id).join(Tombstone, Tombstone.interaction_id == Claim.interaction_id)
    holding = holding.where(Claim.outcome == "claimed", Tombstone.erasure_id.is_not(None))
    session.execute(
        update(Job)
        .where(Job.status == "running", Job.id.in_(holding))
        .values(cancel_requested=True)
        .execution_options(synchronize_session=False)
    )


def containing(session: Session, subject: Subject) -> list[Container]:
    """List the policies that contain removed answers of a subject and could serve: they serve, wait, or have files."""
    wishes = select(Erasure.id).where(Erasure.subject_hmac == subject.digest(session))
    learned = (
        select(Claim.job_id, func.count().label("answers"))
        .join(Tombstone, Tombstone.interaction_id == Claim.interaction_id)
        .where(Tombstone.erasure_id.in_(wishes), Claim.outcome.in_(("claimed", "learned")))
        .group_by(Claim.job_id)
        .subquery()
    )
    made = {job: answers for job, answers in session.execute(select(learned.c.job_id, learned.c.answers))}  # noqa: C416 - rows are no pairs to mypy
    if not made:
        return []
    able = select(Checkpoint).where(
        Checkpoint.state.in_(CAN_SERVE), or_(Checkpoint.files_deleted_at.is_(None), Checkpoint.state == "serving")
    )
    found = []
    for policy in session.scalars(able.order_by(Checkpoint.version.desc())):
        inside = lineage.line(policy.id)
        jobs = select(Checkpoint.job_id).where(and_(Checkpoint.id == inside.c.id, Checkpoint.job_id.is_not(None)))
        answers = sum(made.get(job, 0) for job in session.scalars(jobs))
        if answers:
            found.append(Container(policy.version, policy.state, answers))
    return found


def wished(session: Session, subject: Subject, actor: str | None) -> bool:
    """Tell whether somebody (None: anybody) has asked before to have a subject removed."""
    query = select(Erasure.id).where(Erasure.subject_hmac == subject.digest(session))
    return session.scalar((query if actor is None else query.where(Erasure.actor == actor)).limit(1)) is not None


def tombstone(session: Session, interaction_id: UUID) -> Tombstone | None:
    """Read what is left of a removed answer; None: there was none, or it left nothing."""
    return session.get(Tombstone, interaction_id)
