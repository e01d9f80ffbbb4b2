"""Shadow answers: a share of live prompts answered a second time by a policy on trial, unseen by anybody.

Only where the request named a grader that this server runs, and only after its own answers are stored. A shadow answer
takes a slot nobody wants and gives it up to whoever comes; one that was cut short is forgotten. What is kept is an
interaction that names the response it shadows, is graded like any other, and is never learned from. Leaves out what is
made of the grades (`worker.trial`).
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from app.api.answering.record import Recorder
from app.api.answering.trial_routing import OnTrial, falls_in
from app.api.http.mailbox import Mailbox
from app.api.server import Server
from app.engine.request import Crashed, EngineRefusal, Event, Finished, FinishReason
from app.errors import LepoError

MOST_AT_ONCE: Final = 32  # shadow answers of one server under way or being stored
WHOLE: Final[frozenset[FinishReason]] = frozenset({"stop", "length"})  # endings of answers that were not cut short

log = logging.getLogger("lepo.api")


def offer(server: Server, recorder: Recorder) -> None:
    """Begin shadow answers to a request's prompts, as far as they are among the share; returns at once."""
    trial, ask = server.trial, recorder.ask
    if trial is None or trial.state != "shadow" or ask.fields.grader is None:
        return
    for prompt in range(len(ask.prompts)):
        if len(server.shadows) >= MOST_AT_ONCE:
            return
        if falls_in(trial, ask.group_id(prompt), server.settings.shadow_share):
            task = asyncio.create_task(answer(server, recorder, prompt, trial))
            server.shadows.add(task)
            task.add_done_callback(partial(over, server))


def over(server: Server, task: asyncio.Task[None]) -> None:
    """Let go of a shadow answer; what went wrong with it is a line in the log and nobody's trouble."""
    server.shadows.discard(task)
    if not task.cancelled() and task.exception() is not None:
        log.warning("a shadow answer was lost", exc_info=task.exception())


async def answer(server: Server, recorder: Recorder, prompt: int, trial: OnTrial) -> None:
    """Have the policy on trial answer one prompt once, by the draw of the first live choice, and keep the answer."""
    ask = recorder.ask
    heard: Mailbox[Event] = Mailbox()

    def sink(events: Sequence[Event]) -> None:
        server.bell.post(heard, tuple(events))

    wanted = ask.engine_request(ask.prompts[prompt], server.settings.request_deadline, trial.version)
    try:
        server.engine.submit(replace(wanted, choices=1, background=True), sink)
    except (EngineRefusal, ValueError):
        return  # there is no room; live answers have it
    last: Event | None = None
    while not isinstance(last, Finished | Crashed):
        last = (await heard.take())[-1]
    if not isinstance(last, Finished) or last.reason not in WHOLE or last.rollout.policy_version != trial.version:
        return
    finished = last
    try:
        await server.traffic.run(lambda session: recorder.remember(session, prompt, finished, shadow=True))
    except LepoError as error:
        log.warning("a shadow answer could not be recorded: %s", error.message)
