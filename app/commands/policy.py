"""`lepo policy`: what serves and what is in it, and every move of a policy's life, over HTTP.

Servers see a change within a second. Leaves out what a move means (`app.store.policy_life`).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from app.commands.connection import asks
from app.commands.output import AS_JSON, LIMIT, moment, say_facts, say_json, say_table

if TYPE_CHECKING:
    from app.client import Lepo
    from app.client.calls import Call
    from app.client.operator import Stage
    from app.client.operator_shapes import Learning
    from app.client.shapes import Move

STATES = ("candidate", "held", "shadow", "canary", "serving", "retired", "refused", "rolled_back")
POLICY = click.argument("policy", metavar="POLICY")


def why(default: str) -> Callable[[Any], Any]:
    """Make the option that says why."""
    return click.option("--reason", default=default, show_default=True, help="Kept in the history.")


@click.group("policy", short_help="See, promote, roll back, freeze and pin policies.")
def command() -> None:
    """See, promote, roll back, freeze and pin policies. POLICY is a version, such as 7, or an id."""


@command.command("list")
@LIMIT
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@AS_JSON
@asks
def show_all(lepo: "Lepo", limit: int, state: str | None, as_json: bool) -> None:
    """Print the newest policies: version, state, parent, when."""
    from app.client import operator

    rows = lepo.policies(limit=limit, state=state)
    if as_json:
        say_json([row.raw for row in rows])
        return
    versions = {row.id: row.version for row in rows}
    for parent in {str(row.raw["parent_id"]) for row in rows if row.raw["parent_id"] is not None} - versions.keys():
        versions[parent] = lepo.send(operator.policy(parent)).version
    say_table(
        ("version", "state", "parent", "created", "id"),
        [(row.version, row.state, versions.get(row.raw["parent_id"]), row.created_at, row.id) for row in rows],
        "There is no policy.",
    )


@command.command("show")
@POLICY
@AS_JSON
@asks
def show(lepo: "Lepo", policy: str, as_json: bool) -> None:
    """Print one policy: its state, its files, its figures, and what happened to it."""
    from app.client import operator

    row = lepo.send(operator.policy(policy))
    if as_json:
        say_json(row.raw)
        return
    plain = ("parent_id", "job_id", "path", "digest", "files_deleted_at")
    facts = {"version": row.version, "state": row.state, "created": row.created_at, "id": row.id}
    say_facts({**facts, **{name: row.raw[name] for name in plain}, "metrics": row.raw["metrics"]})
    click.echo()
    for entry in row.raw["transitions"]:
        click.echo(f"{entry['created_at'][:19]}  {entry['event']:<9}  by {entry['actor']}: {entry['reason'] or '-'}")


@command.command("status")
@AS_JSON
@asks
def status(lepo: "Lepo", as_json: bool) -> None:
    """Print what serves, whether it is frozen or pinned, and why nothing is learned, if so."""
    from app.client import operator

    now, learning, trials = lepo.overview(), lepo.send(operator.learning()), lepo.send(operator.trials())
    shown = {
        "serving": now["serving_version"],
        "previous": now["previous_version"],
        "undecided": now["undecided"],
        "frozen": learning.frozen,
        "pinned": learning.pinned,
        "refusals": learning.raw["refusals"],
        "learning": "an update runs" if learning.running else learning.waiting_for or "ready",
        "waiting": learning.answers_waiting,
        "trials": {f"{one['stage']} of {one['version']}": one["figures"] for one in trials},
    }
    say_json(shown) if as_json else say_facts(shown)


@command.command("history")
@LIMIT
@AS_JSON
@asks
def history(lepo: "Lepo", limit: int, as_json: bool) -> None:
    """Print the last moves: when, version, what happened, from which state to which, who, why."""
    from app.client import operator

    rows = lepo.send(operator.moves(limit))
    if as_json:
        say_json(rows)
        return
    versions: dict[str, int] = {}
    for row in rows:
        if row["checkpoint_id"] not in versions:
            versions[row["checkpoint_id"]] = lepo.send(operator.policy(row["checkpoint_id"])).version
    table = []
    for row in rows:
        change = row["to"] if row["from"] == row["to"] else f"{row['from'] or 'new'} -> {row['to']}"
        version = versions[row["checkpoint_id"]]
        table.append((moment(row["created_at"]), version, row["event"], change, row["actor"], row["reason"]))
    say_table(("when", "version", "event", "state", "by", "why"), table, "Nothing has happened.")


@command.command("lineage")
@POLICY
@AS_JSON
@asks
def lineage(lepo: "Lepo", policy: str, as_json: bool) -> None:
    """Print what POLICY contains: its ancestors, and the answers that went into each."""
    from app.client import operator

    facts = lepo.send(operator.lineage(policy))
    if as_json:
        say_json(facts)
        return
    inside = facts["contents"]
    graders = ", ".join(f"{count} by {name}" for name, count in inside["by_grader"].items()) or "none graded"
    click.echo(f"Version {facts['version']} contains {inside['answers']} answers ({graders}).")
    rows = [(one["version"], one["state"], one["learned"], one["reward"], one["id"]) for one in facts["ancestors"]]
    say_table(("version", "state", "answers", "reward", "id"), rows, "It has no ancestors.")


@command.command("swaps")
@LIMIT
@AS_JSON
@asks
def swaps(lepo: "Lepo", limit: int, as_json: bool) -> None:
    """Print how servers took new weights: when, who, from which version to which, and how long it held them up."""
    from app.client import operator

    rows = lepo.send(operator.swaps(limit))
    if as_json:
        say_json(rows)
        return
    say_table(
        ("when", "server", "from", "to", "status", "staged ms", "pause ms", "error"),
        [
            (
                *(moment(row["created_at"]), row["replica"], row["from_version"], row["to_version"], row["status"]),
                *(row["staged_ms"], row["pause_ms"], row["error"]),
            )
            for row in rows
        ],
        "No server has taken new weights.",
    )


@command.command("promote")
@POLICY
@click.option("--expect", help="What must be serving, version or id; where something else does, nothing is done.")
@why("promoted by an operator")
@AS_JSON
@asks
def promote(lepo: "Lepo", policy: str, expect: str | None, reason: str, as_json: bool) -> None:
    """Serve POLICY."""
    from app.client import calls

    _move(lepo, calls.promote(policy, reason, expect=expect), as_json)


@command.command("trial")
@POLICY
@click.option("--stage", type=click.Choice(["shadow", "canary"]), default="canary", show_default=True)
@why("put on trial by an operator")
@AS_JSON
@asks
def trial(lepo: "Lepo", policy: str, stage: "Stage", reason: str, as_json: bool) -> None:
    """Try POLICY, which waits for a decision, on live traffic (LEPO_CANARY_SHARE, LEPO_SHADOW_SHARE)."""
    from app.client import operator

    _move(lepo, operator.try_out(policy, stage, reason), as_json)


@command.command("discard")
@POLICY
@why("discarded by an operator")
@AS_JSON
@asks
def discard(lepo: "Lepo", policy: str, reason: str, as_json: bool) -> None:
    """Turn down POLICY, which waits for a decision; its answers are given back."""
    from app.client import operator

    _move(lepo, operator.discard(policy, reason), as_json)


@command.command("rollback")
@click.option("--to", metavar="POLICY", help="What to serve; left out: the last before the serving one's promotion.")
@why("rolled back by an operator")
@AS_JSON
@asks
def rollback(lepo: "Lepo", to: str | None, reason: str, as_json: bool) -> None:
    """Serve an earlier policy again, and freeze learning until `lepo policy thaw`."""
    from app.client import calls

    _move(lepo, calls.rollback(to, reason), as_json)


@command.command("freeze")
@why("frozen by an operator")
@AS_JSON
@asks
def freeze(lepo: "Lepo", reason: str, as_json: bool) -> None:
    """Begin no update until thawed; one that runs is ended and gives its answers back."""
    from app.client import operator

    _switch(lepo, operator.switch("freeze", reason), "Learning is frozen.", as_json)


@command.command("thaw")
@why("thawed by an operator")
@AS_JSON
@asks
def thaw(lepo: "Lepo", reason: str, as_json: bool) -> None:
    """Learn again."""
    from app.client import operator

    _switch(lepo, operator.switch("thaw", reason), "Learning goes on.", as_json)


@command.command("pin")
@why("pinned by an operator")
@AS_JSON
@asks
def pin(lepo: "Lepo", reason: str, as_json: bool) -> None:
    """Keep what serves: nothing is promoted or learned until unpinned."""
    from app.client import operator

    _switch(lepo, operator.pin(reason), "What serves is pinned.", as_json)


@command.command("unpin")
@why("unpinned by an operator")
@AS_JSON
@asks
def unpin(lepo: "Lepo", reason: str, as_json: bool) -> None:
    """Let what serves change again."""
    from app.client import operator

    _switch(lepo, operator.unpin(reason), "What serves may change.", as_json)


def _move(lepo: "Lepo", call: "Call[Move]", as_json: bool) -> None:
    made = lepo.send(call)
    if as_json:
        say_json(made.policy.raw)
        return
    click.echo(f"{'Done' if made.changed else 'Nothing changed'}: version {made.policy.version} serves.")


def _switch(lepo: "Lepo", call: "Call[Learning]", words: str, as_json: bool) -> None:
    made = lepo.send(call)
    if as_json:
        say_json(made.raw)
        return
    click.echo(words if made.changed else f"{words} It was so already.")
