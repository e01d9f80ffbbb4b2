"""What the service is doing now, why it is not learning if it is not, and what to do about it, in words.

Reading only. The reasons are the worker's own (`app.store.learnable`): what is shown here is what it acts on. Leaves
out whether it is improving (`app.api.console.pages.verdict`).
"""

import re
from dataclasses import dataclass, field
from typing import Final, Literal

from sqlalchemy.orm import Session

from app.api.console.pages.words import ago, span
from app.settings import Settings
from app.store import held_out, jobs, learnable, learning, policy_life
from app.store.console_overview import is_empty, last_job, waiting_for_worker
from app.store.tables import Job, Learning

Mood = Literal["busy", "waiting", "stopped"]

COUNTED: Final = re.compile(r"(\d+) of (\d+) answers wait")
PHASES: Final = {
    "start": "getting ready",
    "claim": "choosing answers to learn from",
    "batch": "preparing the batch",
    "evaluate": "asking held-out questions before the update",
    "update": "updating the weights",
    "gate": "asking held-out questions of the candidate",
    "publish": "writing the candidate to disk",
    "settle": "settling what was learned",
}
WORKER: Final = "lepo worker & lepo beat"
UPLOAD: Final = "lepo data held-out upload heldout.jsonl"


@dataclass(frozen=True, slots=True)
class Step:
    """Something that its reader can do."""

    words: str
    path: str | None = None  # page that does it
    command: str | None = None  # to be copied


@dataclass(frozen=True, slots=True)
class Now:
    """What is going on."""

    mood: Mood
    headline: str
    why: str
    have: int = 0  # graded answers that wait
    need: int = 0  # how many start an update; 0: that is not what it waits for
    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what else is worth knowing
    empty: bool = False  # whether nobody has asked anything yet


def read_now(session: Session, settings: Settings) -> Now:
    """Look what is going on."""
    control = learning.read(session)
    notes = noted(session, control)
    running = jobs.running(session)
    if running is not None:
        return busy(running, notes)
    stopped = stopped_now(session, settings, control, notes)
    if stopped is not None:
        return stopped
    queued = waiting_for_worker(session)
    if queued is not None:
        words = f"An update was asked for {span(queued.seconds)} ago, and no worker has taken it."
        steps = [Step("Start a worker and its clock; `lepo up` runs both", command=WORKER)]
        return Now("stopped", "Waiting for a worker", words, steps=steps, notes=notes)
    return idle(session, settings, notes)


def busy(job: Job, notes: list[str]) -> Now:
    """Describe an update that runs."""
    phase = PHASES.get(job.phase or "", job.phase or "starting")
    why = f"An update is {phase}, {ago(job.phase_started_at)}; it began {ago(job.started_at)}."
    steps = [Step("Watch it", "/console/jobs")]
    return Now("busy", "Learning now", why, steps=steps, notes=notes)


def stopped_now(session: Session, settings: Settings, control: Learning, notes: list[str]) -> Now | None:
    """Describe what a person or a rule has stopped; None: nothing is."""
    if not settings.learn:
        step = Step("Let the service learn by itself", command="LEPO_LEARN=true")
        return Now("stopped", "Learning is off", "The setting LEPO_LEARN says so.", steps=[step], notes=notes)
    if control.frozen_at is not None:
        why = f"Frozen by {control.frozen_by}, {ago(control.frozen_at)}: {control.frozen_reason}"
        steps = [Step("Look at the last updates", "/console/jobs"), Step("Thaw", "/console/learning/thaw")]
        return Now("stopped", "Learning is frozen", why, steps=steps, notes=notes)
    if control.pinned_at is not None:
        why = f"Pinned by {control.pinned_by}, {ago(control.pinned_at)}: {control.pinned_reason}"
        return Now(
            "stopped", "What serves is pinned", why, steps=[Step("Unpin", "/console/learning/unpin")], notes=notes
        )
    for waiting in policy_life.undecided(session):
        why = f"Version {waiting.version} is {waiting.state} and no update begins while it waits for a decision."
        here = f"/console/policies/{waiting.version}"
        steps = [Step("See what it does differently", here), Step("Promote it", f"{here}/promote")]
        if waiting.state == "held" and settings.heldout is None and held_out.active_version(session) == held_out.NONE:
            steps.append(Step("Give held-out questions, so that the gate can decide", command=UPLOAD))
        return Now("stopped", f"Version {waiting.version} waits for you", why, steps=steps, notes=notes)
    return None


def idle(session: Session, settings: Settings, notes: list[str]) -> Now:
    """Describe what an update waits for."""
    words = learnable.outlook(session, settings).words
    if words is None:
        why = f"Enough grades wait; a worker looks every {settings.learn_interval:g} s and begins by itself."
        steps = [Step("Should this stay, no worker runs: start one", command=WORKER)]
        return Now("waiting", "An update is about to begin", why, steps=steps, notes=notes)
    found = COUNTED.search(words)
    have, need = (int(found[1]), int(found[2])) if found else (0, 0)
    headline = f"Waiting for grades: {have} of {need}" if found else "Waiting"
    why = words[:1].upper() + words[1:] + "."
    steps = [Step("Grade answers by hand", "/console/review")] if "grade" in words else []
    empty = is_empty(session)
    return Now("waiting", headline, why, have, need, steps, notes, empty)


def noted(session: Session, control: Learning) -> list[str]:
    """Say what else is worth knowing."""
    notes = []
    last = last_job(session)
    if last is not None:
        told = f": {last.error}" if last.error else ""
        notes.append(f"The last update ended {ago(last.finished_at)} as {last.verdict or last.status}{told}.")
    if control.refusals:
        many = "once" if control.refusals == 1 else f"{control.refusals} times in a row"
        notes.append(
            f"Candidates were refused {many}: the next update learns at {control.rate_scale:.0%} of the rate "
            f"from {control.batch_scale:.0%} of a batch."
        )
    return notes
