"""The page of events: what a job's diary holds, and the moves of a policy's life with what each does."""

from typing import Final, get_args

HEAD: Final = """\
# Events

## Of a job

`GET /v1/admin/jobs/{id}/events`, or `lepo jobs events JOB --follow`: a diary, in order, each entry with a growing
`id`. A `message` has words and a level (%s); `metrics` has figures in `data`. A job is %s.

## Of a policy

`GET /v1/admin/transitions`, or `lepo policy history`: who moved what, why, and by which figures. A policy is in one of
the states below; nothing else is possible.

| from | event | to | its answers |
|---|---|---|---|
"""
CLAIMS: Final = {
    "keep": "as they are",
    "learn": "are learned from",
    "refuse": "are not learned from",
    "release": "are given back",
}


def page() -> str:
    """Write the page."""
    from app.store.events import Level
    from app.store.policy_life import LIFE
    from app.store.tables import JOB_STATES

    rows = (f"| {a} | {event} | {move.to} | {CLAIMS[move.claims]} |\n" for (a, event), move in LIFE.items())
    return HEAD % (", ".join(get_args(Level)), ", ".join(JOB_STATES)) + "".join(rows)
