"""What operators ask, as calls: keys, projects, moves of a policy, the switches of learning, held-out sets, erasure.

Send them with a client of either kind:

    with Lepo(url, admin_key) as lepo:
        lepo.send(operator.pin("exam week"))

Leaves out what the clients have as methods (`app.client.calls`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from app.client import operator_shapes, shapes
from app.client.calls import Call, as_it_is, given_of, listed, once, part
from app.client.operator_shapes import Erasure, HeldOutSet, Key, Learning, NewKey, Project
from app.client.shapes import Move, Policy

Trust = Literal["ordinary", "trusted", "quarantined"]
Stage = Literal["shadow", "canary"]
Facts = Mapping[str, Any]


def policy(name: str | int) -> Call[Policy]:
    """Read a policy, named by id or version; `raw` has its history as `transitions`."""
    return Call("GET", f"/v1/admin/checkpoints/{part(name)}", shapes.read_policy)


def lineage(name: str | int) -> Call[Facts]:
    """Read what a policy contains: its ancestors, and the answers that went into each."""
    return Call("GET", f"/v1/admin/checkpoints/{part(name)}/lineage", as_it_is)


def discard(name: str | int, reason: str) -> Call[Move]:
    """Turn down a policy that waits for a decision."""
    return once("POST", f"/v1/admin/checkpoints/{part(name)}/discard", shapes.read_move, {"reason": reason})


def try_out(name: str | int, stage: Stage, reason: str) -> Call[Move]:
    """Put a policy that waits for a decision into shadow or canary."""
    body = {"stage": stage, "reason": reason}
    return once("POST", f"/v1/admin/checkpoints/{part(name)}/trial", shapes.read_move, body)


def moves(limit: int) -> Call[list[Facts]]:
    """List the moves of all policies, the newest first."""
    return Call("GET", "/v1/admin/transitions", listed(as_it_is), params={"limit": limit})


def swaps(limit: int) -> Call[list[Facts]]:
    """List attempts of servers to take new weights, the newest first."""
    return Call("GET", "/v1/admin/swaps", listed(as_it_is), params={"limit": limit})


def trials() -> Call[list[Facts]]:
    """List the trials that are under way."""
    return Call("GET", "/v1/admin/trials", listed(as_it_is))


def learning() -> Call[Learning]:
    """Read whether an update runs or could begin, and if not, why not."""
    return Call("GET", "/v1/admin/learning", operator_shapes.read_learning)


def switch(which: Literal["freeze", "thaw", "pin", "unpin"], reason: str) -> Call[Learning]:
    """Freeze or thaw learning; pin or unpin what serves."""
    return once("POST", f"/v1/admin/learning/{which}", operator_shapes.read_learning, {"reason": reason})


def pin(reason: str) -> Call[Learning]:
    """Keep what serves."""
    return switch("pin", reason)


def unpin(reason: str) -> Call[Learning]:
    """Let what serves change again."""
    return switch("unpin", reason)


def keys() -> Call[list[Key]]:
    """List keys, the oldest first."""
    return Call("GET", "/v1/admin/keys", listed(operator_shapes.read_key))


def create_key(
    name: str, scopes: Sequence[str], *, expires_in_s: int | None = None, project: str | None = None, **limits: int
) -> Call[NewKey]:
    """Make a key; `limits`: requests_per_minute, tokens_per_minute, max_choices, each 0 for no bound."""
    given = given_of(expires_in=expires_in_s, project=project, **limits)
    return Call("POST", "/v1/admin/keys", operator_shapes.read_new_key, {"name": name, "scopes": list(scopes), **given})


def limit_key(key_id: str, **limits: int | None) -> Call[Key]:
    """Change a key's limits: those that are named; None: as the settings say."""
    return Call("PATCH", f"/v1/admin/keys/{part(key_id)}", operator_shapes.read_key, limits)


def revoke_key(key_id: str) -> Call[Key]:
    """Close a key for good."""
    return Call("DELETE", f"/v1/admin/keys/{part(key_id)}", operator_shapes.read_key)


def trust_key(key_id: str, trust: Trust, reason: str) -> Call[Key]:
    """Say what a key's grades count for."""
    body = {"trust": trust, "reason": reason}
    return Call("POST", f"/v1/admin/keys/{part(key_id)}/trust", operator_shapes.read_key, body)


def agreement() -> Call[list[Facts]]:
    """Read how far each key's grades agree with those by trusted keys, those first that disagree most."""
    return Call("GET", "/v1/admin/keys/agreement", listed(as_it_is))


def projects() -> Call[list[Project]]:
    """List projects, by name."""
    return Call("GET", "/v1/admin/projects", listed(operator_shapes.read_project))


def create_project(name: str, limits: Mapping[str, float]) -> Call[Project]:
    """Make a project."""
    return Call("POST", "/v1/admin/projects", operator_shapes.read_project, {"id": name, **limits})


def limit_project(name: str, limits: Mapping[str, float]) -> Call[Project]:
    """Change a project's limits: those that are named."""
    return Call("PATCH", f"/v1/admin/projects/{part(name)}", operator_shapes.read_project, limits)


def upload_held_out(lines: str, *, activate: bool = True) -> Call[HeldOutSet]:
    """Keep held-out prompts, JSONL, under the next version; the gate asks them from the next update on."""
    call = once("POST", "/v1/admin/held-out", operator_shapes.read_held_out)
    headers = {**call.headers, "Content-Type": "application/x-ndjson"}
    return replace(call, text=lines, headers=headers, params={"activate": activate})


def held_out_sets() -> Call[list[HeldOutSet]]:
    """List held-out sets that were uploaded, the newest first."""
    return Call("GET", "/v1/admin/held-out", listed(operator_shapes.read_held_out), params={"limit": 1000})


def held_out(version: int) -> Call[HeldOutSet]:
    """Read a held-out set; `raw` has its `lines`."""
    return Call("GET", f"/v1/admin/held-out/{version}", operator_shapes.read_held_out)


def activate_held_out(version: int) -> Call[Facts]:
    """Have the gate ask a version from the next update on; 0: what the service's settings name."""
    return once("POST", f"/v1/admin/held-out/{version}/activate", as_it_is)


def entries(answer_id: str) -> Call[Facts]:
    """Read the grades of an answer in the order of writing, superseded ones too, and what they come to."""
    return Call("GET", f"/v1/interactions/{part(answer_id)}/grades", as_it_is, params={"limit": 1000})


def erase_user(user: str, *, key: str | None = None) -> Call[Erasure]:
    """Remove every answer to requests that named this user; repeat until it is finished."""
    path = f"/v1/users/{part(user)}/data"
    return Call("DELETE", path, operator_shapes.read_erasure, params=given_of(key=key))


def erase_answer(answer_id: str) -> Call[Erasure]:
    """Remove one answer."""
    return Call("DELETE", f"/v1/interactions/{part(answer_id)}", operator_shapes.read_erasure)


def erase_session(name: str) -> Call[Erasure]:
    """Remove a session with its turns; repeat until it is finished."""
    return Call("DELETE", f"/v1/sessions/{part(name)}", operator_shapes.read_erasure)
