"""One request's answers under way: submitted to the engine, heard from it, committed as they end.

An id of an interaction exists outside this process only after its row is committed: a `Stored` with an id is made by
the commit and by nothing else. An answer to `store: false` ends without a commit and without an id. When the client
leaves, the engine is told, and what was said so far is still recorded. Leaves out how answers are shown (`stream`,
`whole`).
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy.orm import Session

from app.api.answering.ask import Ask
from app.api.answering.record import Recorder
from app.api.answering.shadow import offer
from app.api.answering.telling import choices_told, tell
from app.api.answering.trial_routing import version_for
from app.api.http.mailbox import Mailbox
from app.api.server import Server
from app.engine.request import Crashed, Delta, EngineRefusal, Event, Finished, Reasoned
from app.engine.ticket import Ticket
from app.errors import LepoError, Unavailable
from app.identifiers import show
from app.store.tables import Interaction
from app.telemetry.told import ChoiceTold

log = logging.getLogger("lepo.api")

AT_ONCE: Final = 2  # transactions of one request under way
TOGETHER: Final = 16  # choices committed in one transaction; more could take longer than one may


@dataclass(frozen=True, slots=True)
class Arrived:
    """Events of one prompt, as the engine sent them."""

    prompt: int  # index into Ask.prompts
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """Something to show of one choice before it ends."""

    choice: int  # over all prompts: prompt * n + choice
    event: Reasoned | Delta


@dataclass(frozen=True, slots=True)
class Stored:
    """One choice is committed, and its id may leave; or it was asked not to be recorded, and has none."""

    choice: int  # over all prompts
    finished: Finished
    interaction_id: str | None  # int_<32 hex>; None: it is not recorded
    session_id: str | None = None  # sess_<32 hex>, where it is a turn of one
    turn: int | None = None  # its number in the session, from 1

    @property
    def shown_reason(self) -> str:
        """`finish_reason` in OpenAI's words, and vLLM's `abort` where a deadline or the server's end cut it short."""
        return self.finished.reason if self.finished.reason in {"stop", "length"} else "abort"

    @property
    def extra(self) -> dict[str, Any]:
        """What a choice carries beside OpenAI's fields."""
        shown = {"interaction_id": self.interaction_id, "policy_version": self.finished.rollout.policy_version}
        if self.session_id is not None:
            shown |= {"session_id": self.session_id, "turn": self.turn}
        return shown if self.shown_reason != "abort" else {**shown, "stop_reason": self.finished.reason}


@dataclass(frozen=True, slots=True)
class Lost:
    """Choices that could not be committed; no id of theirs exists."""

    choices: int
    error: LepoError


def stored(choice: int, finished: Finished, row: Interaction) -> Stored:
    """Say that a choice is committed; `choice` counts over all prompts."""
    session = None if row.session_id is None else show("sess", row.session_id)
    return Stored(choice, finished, show("int", row.id), session, row.turn)


class Answers:
    """The answers to one `Ask`, from submission to the last commit."""

    def __init__(self, server: Server, ask: Ask) -> None:
        self.server = server
        self.ask = ask
        self.open = ask.choices  # choices neither stored nor lost
        self.failure: LepoError | None = None  # the first thing that went wrong
        self._mailbox: Mailbox[Arrived | Stored | Lost] = Mailbox()
        self._unfinished = [ask.fields.choices] * len(ask.prompts)  # choices the engine still works on
        self._tickets: list[Ticket] = []
        self._commits: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._recorder = Recorder(ask, server.redactor, server.settings)
        self._began = time.monotonic()
        self._last_token_at: dict[int, float] = {}
        self._told: list[ChoiceTold] = []  # choices that are over
        self._over = False  # all of it is

    def submit(self) -> None:
        """Hand every prompt to the engine, or none.

        Raises:
            EngineRefusal, ValueError: the engine does not take it; prompts handed over before are taken back.

        """
        settings = self.server.settings
        version = self.ask.version
        if version is None:
            version = version_for(self.server.trial, self.ask.unit, settings.canary_share)
        try:
            for index, prompt in enumerate(self.ask.prompts):
                request = self.ask.engine_request(prompt, settings.request_deadline, version)
                self._tickets.append(self.server.engine.submit(request, partial(self._arrived, index)))
        except (EngineRefusal, ValueError):
            self.cancel()
            raise
        if self.ask.stored:
            self.server.underway[self.ask.completion_id] = self.ask.key_id

    def cancel(self) -> None:
        """Free the engine's slots; every choice still ends, as cancelled, and is recorded."""
        for ticket in self._tickets:
            ticket.cancel()

    def fail(self, error: LepoError) -> None:
        """Give the request up; the first reason is the one that is told."""
        if self.failure is None:
            self.failure = error
            self.cancel()

    async def take(self) -> list[Said | Stored]:
        """Wait for news of the answers; commits begin here as choices end."""
        news: list[Said | Stored] = []
        for item in await self._mailbox.take():
            if isinstance(item, Arrived):
                news.extend(self._heard(item))
            elif isinstance(item, Stored):
                self.open -= 1
                self._refuse_starved(item.finished)
                news.append(item)
            else:
                self.open -= item.choices
                self.fail(item.error)
        return news

    async def finish(self) -> None:
        """See every choice into the store, and let go of the request, once. Runs on after the client has left."""
        self.cancel()
        while self.open:
            await self.take()
        if self._over:
            return
        self._over = True
        self.server.underway.pop(self.ask.completion_id, None)
        tell(self.server, self.ask, self._began, self._told, self.failure)
        if self.failure is None:
            offer(self.server, self._recorder)

    def _arrived(self, prompt: int, events: Sequence[Event]) -> None:
        """Take events on the engine's thread."""
        self.server.bell.post(self._mailbox, (Arrived(prompt, tuple(events)),))

    def _heard(self, item: Arrived) -> list[Said]:
        """Sort events of one prompt: text to show, endings to commit, a crash to report."""
        said: list[Said] = []
        finished: list[Finished] = []
        for event in item.events:
            if isinstance(event, Finished):
                finished.append(event)
            elif isinstance(event, Crashed):
                self.open -= self._unfinished[item.prompt] - len(finished)
                self._unfinished[item.prompt] = len(finished)
                self.fail(LepoError(event.message, code="engine_error"))
            else:
                said.append(Said(self._place(item.prompt, event), event))
        if finished:
            self._unfinished[item.prompt] -= len(finished)
            for place in range(0, len(finished), TOGETHER):
                self._commit(item.prompt, finished[place : place + TOGETHER])
        self._time_tokens(said)
        return said

    def _commit(self, prompt: int, finished: list[Finished]) -> None:
        """Begin to commit choices of one prompt."""
        task = asyncio.create_task(self._end(prompt, finished))
        self._commits.add(task)
        task.add_done_callback(partial(self._settled, len(finished)))

    async def _end(self, prompt: int, finished: list[Finished]) -> None:
        """Commit choices of one prompt in one transaction, if they are recorded; the mailbox hears what comes of it."""
        ended = time.monotonic()
        try:
            news = await self._stored(prompt, finished)
        except LepoError as error:
            self._mailbox.put((Lost(len(finished), error),))
            return
        committed = time.monotonic()
        pairs = [(one.finished, one.interaction_id) for one in news]
        self._told += choices_told(self.ask, prompt, pairs, self._began, (ended, committed))
        self._mailbox.put(news)
        seconds, tokens = (ended - self._began, committed - self._began), len(self.ask.prompts[prompt].ids)
        self.server.metrics.answered(finished, tokens, *seconds, stored=self.ask.stored)
        await self.server.rates.spend(self.ask.key_id, spent(finished, tokens))

    async def _stored(self, prompt: int, finished: list[Finished]) -> list[Stored]:
        """Commit choices, where they are to be recorded.

        Raises:
            LepoError: they could not be.

        """
        if not self.ask.stored:
            return [Stored(self._place(prompt, one), one, None) for one in finished]

        def remember(session: Session) -> list[Stored]:
            rows = [self._recorder.remember(session, prompt, one) for one in finished]
            return [stored(self._place(prompt, one), one, row) for one, row in zip(finished, rows, strict=True)]

        async with self._turn:  # others' answers are to be stored too, and the time of each begins when it does
            return await self.server.traffic.run(remember)

    def _place(self, prompt: int, event: Reasoned | Delta | Finished) -> int:
        """Give the number of a choice over all prompts."""
        return prompt * self.ask.fields.choices + event.choice

    def _settled(self, choices: int, task: asyncio.Task[None]) -> None:
        """Let go of a commit; one that a bug ended must not leave its client waiting."""
        self._commits.discard(task)
        error = task.exception()
        if error is not None:
            log.error("an answer could not be recorded", exc_info=error)
            self._mailbox.put((Lost(choices, LepoError("The answer could not be recorded; see the log.")),))

    def _refuse_starved(self, finished: Finished) -> None:
        """Give up an answer whose deadline passed before its first step."""
        if finished.reason == "deadline" and finished.rollout.latent_length + finished.rollout.answer_length == 0:
            words = f"The request waited {self.server.settings.request_deadline:.0f} s for a slot; try again later."
            self.fail(Unavailable(words, code="deadline_exceeded", retry_after=10))

    def _time_tokens(self, said: list[Said]) -> None:
        """Observe the time between the tokens of each choice."""
        now = time.monotonic()
        for one in said:
            if isinstance(one.event, Delta) and one.event.tokens:
                before = self._last_token_at.get(one.choice)
                self._last_token_at[one.choice] = now
                if before is not None:
                    self.server.metrics.between_tokens((now - before) / len(one.event.tokens))


def spent(finished: Sequence[Finished], prompt: int) -> int:
    """Count the tokens of choices of one prompt; the prompt's own come with its first choice."""
    drawn = sum(one.rollout.latent_length + one.rollout.answer_length for one in finished)
    return drawn + (prompt if any(one.choice == 0 for one in finished) else 0)
