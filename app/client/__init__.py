"""A typed client of the service, without torch: answers, grades, corrections, policies, jobs and their events.

    from app.client import Lepo

    with Lepo("http://127.0.0.1:8000", api_key) as lepo:
        [answer] = lepo.answer("What is 6 times 7?")
        lepo.grade(answer.id, 1.0 if "42" in answer.text else 0.0)

`AsyncLepo` is the same, awaited. OpenAI's own client works as well; this one adds what OpenAI has not. In reading
order: `shapes` (what comes back), `calls` (every request as a value), `retries`, `sync` and `aio` (who sends them).
"""

from app.client.aio import AsyncLepo
from app.client.errors import LepoRefused, LepoUnreachable
from app.client.retries import Retries
from app.client.shapes import (
    Answer,
    Event,
    Grade,
    Interaction,
    Job,
    Move,
    Policy,
    Reward,
    Session,
    SessionGrade,
    Text,
)
from app.client.sync import Lepo

__all__ = [
    "Answer",
    "AsyncLepo",
    "Event",
    "Grade",
    "Interaction",
    "Job",
    "Lepo",
    "LepoRefused",
    "LepoUnreachable",
    "Move",
    "Policy",
    "Retries",
    "Reward",
    "Session",
    "SessionGrade",
    "Text",
]
