"""What a button will do, in words, before it is pressed: made from how things are when its page is opened.

Leaves out the moves themselves (`app.store.policy_life`, `app.store.learning`) and the pages (`moves`).
"""

from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy.orm import Session

from app.api.console.pages.words import span
from app.settings import Settings
from app.store import jobs, learning, lineage, policy_life
from app.store.checkpoints import by_version
from app.store.policy_life import LIFE
from app.store.tables import Checkpoint

Step = Literal["promote", "canary", "shadow", "discard", "rollback"]
Change = Literal["freeze", "thaw", "pin", "unpin"]

NAMES: Final = {
    "promote": "Promote",
    "canary": "Try on some traffic (canary)",
    "shadow": "Try unseen (shadow)",
    "discard": "Discard",
    "rollback": "Roll back to it",
}


@dataclass(frozen=True, slots=True)
class Offer:
    """Something that may be done with a policy."""

    step: Step
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a button will do."""

    title: str
    effects: list[str]  # what will happen, in sentences
    warnings: list[str]  # why one might not want it
    button: str
    grave: bool  # whether it takes something away from service
    reason: str  # what is written down unless the reader says otherwise


def offers(session: Session, row: Checkpoint) -> list[Offer]:
    """List what may be done with a policy in its state."""
    possible: list[Step] = []
    events = {event for state, event in LIFE if state == row.state}
    if "promote" in events:
        possible.append("promote")
    possible += [step for step in ("canary", "shadow", "discard") if step in events]
    serving = policy_life.serving(session)
    if "restore" in events and serving is not None and policy_life.has_served(session, row.id):
        possible.append("rollback")
    if row.files_deleted_at is not None:
        possible = []
    return [Offer(step, NAMES[step], f"/console/policies/{row.version}/{step}") for step in possible]


def plan_of(session: Session, version: int, step: Step, settings: Settings) -> Plan:
    """Say what moving a policy will do.

    Raises:
        NotFound: there is none of this version.

    """
    row = by_version(session, version)
    serving = policy_life.serving(session)
    now = "nothing" if serving is None else f"version {serving.version}"
    warnings = [*pinned_warning(session, step), *state_warning(session, row, step, settings)]
    answers = lineage.ancestors(session, row.id)[0].learned
    if step == "promote":
        effects = [
            f"New requests are answered by version {version}, which is {row.state} now.",
            "Requests under way end on the version they began on.",
            f"{now.capitalize()}, which serves now, is retired and can be served again.",
            "What it was made from counts as learned, once and for all, and updates go on from it.",
        ]
        return Plan(
            f"Promote version {version}", effects, warnings, "Promote it", grave=False, reason="promoted by hand"
        )
    if step == "rollback":
        waiting = policy_life.undecided(session)
        names = ", ".join(f"version {one.version}" for one in waiting)
        effects = [
            f"Version {version} serves again, at once if it is in memory; {now} is rolled back.",
            "Learning is frozen until somebody thaws it, so that nothing is built on a surprise.",
            f"{names} waits for a decision and is discarded; its answers are given back." if waiting else "",
            "The pin moves along to what serves then." if learning.read(session).pinned_at else "",
        ]
        kept = [words for words in effects if words]
        return Plan(
            f"Roll back to version {version}", kept, warnings, "Roll back", grave=True, reason="rolled back by hand"
        )
    if step == "discard":
        effects = [
            f"Version {version} is refused and never serves.",
            f"The answers it was made from ({answers}) are given back: a later update may learn from them.",
        ]
        return Plan(
            f"Discard version {version}", effects, warnings, "Discard it", grave=True, reason="discarded by hand"
        )
    share = settings.canary_share if step == "canary" else settings.shadow_share
    seen = "is answered by it" if step == "canary" else "is answered by it a second time, unseen by anybody"
    effects = [
        f"A share of {share:.0%} of live requests {seen}; the rest is answered by {now}.",
        f"A test on grades promotes it or takes it back by itself, within {span(settings.canary_deadline)}.",
        "No update begins while it is on trial.",
    ]
    title = f"Try version {version} {'on some traffic' if step == 'canary' else 'unseen'}"
    return Plan(title, effects, warnings, "Begin the trial", grave=False, reason="put on trial by hand")


def plan_of_change(session: Session, change: Change) -> Plan:
    """Say what a change of learning will do."""
    control, running = learning.read(session), jobs.running(session)
    serving = policy_life.serving(session)
    now = "nothing" if serving is None else f"version {serving.version}"
    if change == "freeze":
        effects = ["No update begins until somebody thaws it; answers and grades are kept and wait."]
        if running is not None:
            effects.append("The update that runs is ended, and what it claimed is given back.")
        return Plan(
            "Freeze learning", effects, already(control.frozen_at, "frozen"), "Freeze", grave=True, reason="to look"
        )
    if change == "thaw":
        effects = [
            "Updates begin again by themselves, when enough grades wait.",
            f"Refusals in a row ({control.refusals}) are forgotten.",
            f"The learning rate stays at {control.rate_scale:.0%} and rises as candidates pass.",
        ]
        why = [f"It was frozen by {control.frozen_by}: {control.frozen_reason}"] if control.frozen_at else []
        return Plan("Thaw learning", effects, why, "Thaw", grave=False, reason="thawed by hand")
    if change == "pin":
        effects = [
            f"{now.capitalize()} goes on serving: nothing is promoted, and nothing learned, until it is unpinned."
        ]
        return Plan(
            "Pin what serves", effects, already(control.pinned_at, "pinned"), "Pin", grave=False, reason="to keep it"
        )
    effects = ["What serves may change again, and updates begin when enough grades wait."]
    why = [f"It was pinned by {control.pinned_by}: {control.pinned_reason}"] if control.pinned_at else []
    return Plan("Unpin what serves", effects, why, "Unpin", grave=False, reason="unpinned by hand")


def already(since: object, word: str) -> list[str]:
    """Warn that nothing will change."""
    return [] if since is None else [f"It is {word} already; this changes nothing."]


def pinned_warning(session: Session, step: Step) -> list[str]:
    """Warn that a pin stands in the way of a promotion."""
    control = learning.read(session)
    if step != "promote" or control.pinned_at is None:
        return []
    return [f"What serves is pinned by {control.pinned_by} ({control.pinned_reason}): unpin it first."]


def state_warning(session: Session, row: Checkpoint, step: Step, settings: Settings) -> list[str]:
    """Warn of what is known to be wrong with a move."""
    found = []
    if step not in {offer.step for offer in offers(session, row)}:
        found.append(f"Version {row.version} is {row.state.replace('_', ' ')}; this is not possible from there.")
    gate = row.metrics.get("gate", {})
    if step in {"promote", "canary"} and gate.get("decision") not in {None, "pass"}:
        found.append(f"The gate did not pass it: {gate.get('words', gate.get('decision'))}")
    if step == "canary" and not settings.canary_share:
        found.append(
            "LEPO_CANARY_SHARE is 0: nobody would be served by it. Set it, say to 0.05, and restart the server."
        )
    if step == "shadow" and not settings.shadow_share:
        found.append("LEPO_SHADOW_SHARE is 0: nothing would be shadowed. Set it, say to 0.1, and restart the server.")
    return found
