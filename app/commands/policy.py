"""`lepo policy`: what serves and what is in it, and every move of a policy's life, straight on the database.

The same moves as the admin routes; servers see a change within a second. Leaves out what a move means
(`app.store.policy_life`).
"""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import click

from app.commands.keys import actor, transaction

if TYPE_CHECKING:
    from uuid import UUID

    from sqlalchemy.orm import Session

    from app.store.tables import Checkpoint, Transition

VERSION = click.IntRange(0, 2**63 - 1)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def why(default: str) -> Callable[[Any], Any]:
    """Make the option that says why."""
    return click.option("--reason", default=default, show_default=True, help="Kept in the history.")


@click.group("policy", short_help="See, promote, roll back, freeze and pin policies.")
def command() -> None:
    """See, promote, roll back, freeze and pin policies. VERSION is a checkpoint's version, such as 7."""


@command.command("list")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
@AS_JSON
def show_all(limit: int, as_json: bool) -> None:
    """Print the newest policies: version, state, parent, when."""
    from app.store.checkpoints import get_checkpoint, list_checkpoints

    with transaction() as session:
        rows = list_checkpoints(session, limit=limit)
        parents = [None if row.parent_id is None else get_checkpoint(session, row.parent_id).version for row in rows]
    if as_json:
        click.echo(json.dumps([_brief(row, parent) for row, parent in zip(rows, parents, strict=True)], indent=2))
        return
    for row, parent in zip(rows, parents, strict=True):
        come = "-" if parent is None else parent
        click.echo(f"{row.version:>6}  {row.state:<12} from {come:<6} {row.created_at:%Y-%m-%d %H:%M:%S}")


@command.command("status")
@AS_JSON
def status(as_json: bool) -> None:
    """Print what serves, whether it is frozen or pinned, and why nothing is learned, if so."""
    from app.settings import read_settings
    from app.store import jobs, learnable, learning, policy_life
    from app.trials import in_words, under_way

    settings = read_settings()
    with transaction() as session:
        serving, control = policy_life.serving(session), learning.read(session)
        running = jobs.running(session)
        shown = {
            "serving": None if serving is None else serving.version,
            "undecided": {str(row.version): row.state for row in policy_life.undecided(session)},
            "frozen": control.frozen_reason,
            "pinned": control.pinned_reason,
            "refusals": control.refusals,
            "learning": "an update runs" if running else learnable.outlook(session, settings).words or "ready",
            "trials": {
                f"{one.kind} of {one.version}": in_words(found, settings) for one, found in under_way(session, settings)
            },
        }
    click.echo(json.dumps(shown, indent=2) if as_json else "\n".join(f"{k:<10} {v}" for k, v in shown.items()))


@command.command("history")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000))
def history(limit: int) -> None:
    """Print the last moves: when, version, what happened, from which state to which, who, why."""
    from app.store import policy_life
    from app.store.checkpoints import get_checkpoint

    with transaction() as session:
        for row in policy_life.history(session, limit=limit):
            version = get_checkpoint(session, row.checkpoint_id).version
            change = row.to_state if row.from_state == row.to_state else f"{row.from_state or 'new'} -> {row.to_state}"
            moved = f"{version:>5}  {row.event:<9}  {change:<23}"
            click.echo(f"{row.created_at:%Y-%m-%d %H:%M:%S}  {moved}  {row.actor:<12}  {row.reason}")


@command.command("lineage")
@click.argument("version", type=VERSION)
@AS_JSON
def lineage(version: int, as_json: bool) -> None:
    """Print what the policy of VERSION contains: its ancestors, and the answers that went into each."""
    from app.store import lineage as lines
    from app.store.checkpoints import by_version

    with transaction() as session:
        row = by_version(session, version)
        found, inside = lines.ancestors(session, row.id), lines.contents(session, row.id)
        facts = [{"version": one.checkpoint.version, "learned": one.learned, "reward": one.reward} for one in found]
        if as_json:
            contents = {"answers": inside.answers, "by_key": inside.by_key, "by_grader": inside.by_grader}
            click.echo(json.dumps({"version": version, "contents": contents, "ancestors": facts}, indent=2))
            return
        click.echo(f"version {version} contains {inside.answers} answers, by grader {inside.by_grader}")
        for one in facts:
            reward = "" if one["reward"] is None else f", mean reward {one['reward']:.3f}"
            click.echo(f"  version {one['version']}: {one['learned']} answers{reward}")


@command.command("promote")
@click.argument("version", type=VERSION)
@why("promoted by an operator")
def promote(version: int, reason: str) -> None:
    """Serve the policy of VERSION."""
    from app.store import policy_life

    _move(lambda session: policy_life.promote(session, _id(session, version), reason, actor()))


@command.command("trial")
@click.argument("version", type=click.IntRange(min=0))
@click.option("--stage", type=click.Choice(["shadow", "canary"]), default="canary", show_default=True)
@why("put on trial by an operator")
def trial(version: int, stage: "Literal['shadow', 'canary']", reason: str) -> None:
    """Try the policy of VERSION, which waits for a decision, on live traffic (LEPO_CANARY_SHARE, LEPO_SHADOW_SHARE)."""
    from app.store import policy_life

    _move(lambda session: policy_life.try_out(session, _id(session, version), stage, reason, actor()))


@command.command("discard")
@click.argument("version", type=VERSION)
@why("discarded by an operator")
def discard(version: int, reason: str) -> None:
    """Turn down the policy of VERSION, which waits for a decision; its answers are given back."""
    from app.store import policy_life

    _move(lambda session: policy_life.discard(session, _id(session, version), reason, actor()))


@command.command("rollback")
@click.option("--to", type=VERSION, help="Version to serve; left out: the last before the serving one's promotion.")
@why("rolled back by an operator")
def rollback(to: int | None, reason: str) -> None:
    """Serve an earlier policy again, and freeze learning until `lepo policy thaw`."""
    from app.store import policy_life

    _move(lambda session: policy_life.rollback(session, actor(), None if to is None else _id(session, to), reason))


@command.command("freeze")
@why("frozen by an operator")
def freeze(reason: str) -> None:
    """Begin no update until thawed; one that runs is ended and gives its answers back."""
    from app.store import learning

    _switch(lambda session: learning.freeze(session, actor(), reason), "Learning is frozen.")


@command.command("thaw")
@why("thawed by an operator")
def thaw(reason: str) -> None:
    """Learn again."""
    from app.store import learning

    _switch(lambda session: learning.thaw(session, actor(), reason), "Learning goes on.")


@command.command("pin")
@why("pinned by an operator")
def pin(reason: str) -> None:
    """Keep what serves: nothing is promoted or learned until unpinned."""
    from app.store import learning

    _switch(lambda session: learning.pin(session, actor(), reason), "What serves is pinned.")


@command.command("unpin")
@why("unpinned by an operator")
def unpin(reason: str) -> None:
    """Let what serves change again."""
    from app.store import learning

    _switch(lambda session: learning.unpin(session, actor(), reason), "What serves may change.")


def _move(move: "Callable[[Session], Transition | None]") -> None:
    from app.store import policy_life

    with transaction() as session:
        changed = move(session) is not None
        now = policy_life.serving(session)
    serving = "nothing" if now is None else f"version {now.version}"
    click.echo(f"{'Done' if changed else 'Nothing changed'}: {serving} serves.")


def _switch(change: "Callable[[Session], bool]", words: str) -> None:
    with transaction() as session:
        changed = change(session)
    click.echo(words if changed else f"{words} It was so already.")


def _id(session: "Session", version: int) -> "UUID":
    from app.store.checkpoints import by_version

    return by_version(session, version).id


def _brief(row: "Checkpoint", parent: int | None) -> dict[str, Any]:
    return {
        "version": row.version,
        "state": row.state,
        "parent": parent,
        "digest": row.digest,
        "created_at": row.created_at.isoformat(),
    }
