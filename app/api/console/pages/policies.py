"""Policies: their lineage, one with what it was made from and why it serves or does not, two beside one another.

For admin keys of the service. Leaves out moving them (`app.api.console.pages.moves`).
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from markupsafe import Markup
from sqlalchemy.orm import Session
from starlette.responses import Response

from app.api.console.drawing.lineage import graph
from app.api.console.pages.plans import Offer, offers
from app.api.console.pages.rendering import page
from app.api.console.pages.routes import pages
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.server import ServerDep
from app.settings import Settings
from app.store import lineage, policy_life
from app.store.checkpoints import by_version, get_checkpoint
from app.store.console_policies import Both, Kin, Manner, kin, manner, same_prompts
from app.store.evaluations import list_evaluations
from app.store.learning import read as read_learning
from app.store.lineage import Ancestor, Contents
from app.store.tables import Checkpoint, Evaluation, Job, Learning, Transition
from app.trials import figures as trial_figures
from app.trials import under_way

router = pages()

MayRule = Annotated[Caller, Depends(require("admin"))]

# What an update is measured by: name, path into a checkpoint's metrics.
MEASURED: Final = (
    ("answers learned from", ("update", "rollouts")),
    ("loss", ("update", "loss")),
    ("KL from its parent", ("update", "kl")),
    ("entropy of tokens", ("update", "objective", "token_entropy")),
    ("entropy of latent steps", ("update", "objective", "latent_step_entropy")),
    ("effective support", ("update", "traces", "effective_support")),
    ("gradient norm", ("update", "gradient_norm")),
    ("learning rate", ("update", "learning_rate")),
    ("drift", ("drift",)),
    ("mean tokens", ("update", "traces", "mean_tokens")),
)


@dataclass(frozen=True, slots=True)
class All:
    """What the list shows."""

    graph: Markup | None
    kin: list[Kin]  # newest first
    learning: Learning
    trials: list[dict[str, Any]]
    moves: list[Transition]
    versions: dict[str, int]  # checkpoint's hexadecimal id -> version, of those moves


@dataclass(frozen=True, slots=True)
class One:
    """What the page of a policy shows."""

    row: Checkpoint
    parent: Checkpoint | None
    job: Job | None
    history: list[Transition]  # newest first
    asked: list[Evaluation]
    contents: Contents
    own: Ancestor | None  # what it added to its parent
    manner: Manner
    offers: list[Offer]  # what may be done with it
    measured: list[tuple[str, Any]]
    beside: list[tuple[str, float, float, float]]  # the gate's comparisons: with whom, difference, its ends


@dataclass(frozen=True, slots=True)
class Compared:
    """Two policies beside one another."""

    rows: tuple[Checkpoint, Checkpoint]
    table: list[tuple[str, Any, Any]]  # a figure of both
    both: list[Both]


@router.get("/console/policies")
async def listing(request: Request, server: ServerDep, _caller: MayRule) -> Response:
    """Show the lineage."""
    settings = server.settings
    found = await server.control.run(lambda session: read_all(session, settings))
    return page(request, "policies.html", all=found, resident=server.engine.stats().versions)


@router.get("/console/compare")
async def compare(request: Request, server: ServerDep, _caller: MayRule, a: int, b: int) -> Response:
    """Show two policies beside one another."""
    found = await server.control.run(lambda session: read_both(session, a, b))
    return page(request, "compare.html", found=found)


@router.get("/console/policies/{version}")
async def one(request: Request, version: int, server: ServerDep, _caller: MayRule) -> Response:
    """Show a policy."""
    found = await server.control.run(lambda session: read_one(session, version))
    return page(request, "policy.html", one=found)


def read_all(session: Session, settings: Settings) -> All:
    """Read the lineage, the trials under way and the last moves."""
    found = kin(session)
    moves = [row for row in policy_life.history(session, limit=60) if row.event != "retire"][:25]
    versions = {row.checkpoint_id.hex: get_checkpoint(session, row.checkpoint_id).version for row in moves}
    trials = [
        {"version": trial.version, "kind": trial.kind, "figures": trial_figures(trial, evidence, settings)}
        for trial, evidence in under_way(session, settings)
    ]
    return All(graph(found) if found else None, found[::-1], read_learning(session), trials, moves, versions)


def read_one(session: Session, version: int) -> One:
    """Read a policy with all that is known of it.

    Raises:
        NotFound: there is none of this version.

    """
    row = by_version(session, version)
    line = lineage.ancestors(session, row.id)
    return One(
        row=row,
        parent=None if row.parent_id is None else get_checkpoint(session, row.parent_id),
        job=None if row.job_id is None else session.get(Job, row.job_id),
        history=policy_life.history(session, checkpoint_id=row.id, limit=50),
        asked=list_evaluations(session, checkpoint_id=row.id, limit=20),
        contents=lineage.contents(session, row.id),
        own=line[0] if line else None,
        manner=manner(session, version),
        offers=offers(session, row),
        measured=measured(row),
        beside=beside(row),
    )


def read_both(session: Session, first: int, second: int) -> Compared:
    """Read two policies.

    Raises:
        NotFound: there is none of one of these versions.

    """
    rows = by_version(session, first), by_version(session, second)
    one, two = manner(session, first), manner(session, second)
    asked = [sum_of(list_evaluations(session, checkpoint_id=row.id, limit=1000)) for row in rows]
    table: list[tuple[str, Any, Any]] = [
        ("state", rows[0].state, rows[1].state),
        ("held-out questions right", asked[0], asked[1]),
        ("mean reward of live answers", one.reward, two.reward),
        ("graded live answers looked at", one.graded, two.graded),
        ("mean length, latent steps included", one.tokens, two.tokens),
        ("share cut for length", one.cut, two.cut),
    ]
    figures = [dict(measured(row)) for row in rows]
    table += [(name, figures[0].get(name), figures[1].get(name)) for name, _ in MEASURED]
    return Compared(rows, table, same_prompts(session, first, second))


def sum_of(asked: list[Evaluation]) -> str | None:
    """Pool held-out questions over all looks; None: none were asked."""
    total = sum(one.total for one in asked)
    right = sum(one.correct for one in asked)
    return f"{right / total:.1%} of {total}" if total else None


def measured(row: Checkpoint) -> list[tuple[str, Any]]:
    """Pick the figures of the update that made a policy; those that were not measured are left out."""
    found = ((name, dig(row.metrics, path)) for name, path in MEASURED)
    return [(name, value) for name, value in found if value is not None]


def dig(value: Any, path: tuple[str, ...]) -> Any:
    """Find a value by its path; None where there is none."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def beside(row: Checkpoint) -> list[tuple[str, float, float, float]]:
    """List the gate's comparisons of a policy with others."""
    found = dig(row.metrics, ("gate", "beside")) or {}
    return [
        (f"version {one['version']} ({role.replace('_', ' ')})", one["difference"], one["low"], one["high"])
        for role, one in found.items()
        if isinstance(one, dict) and {"version", "difference", "low", "high"} <= one.keys()
    ]
