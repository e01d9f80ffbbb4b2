"""The client, awaited: `sync` with `await`, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from app.client import calls
from app.client.calls import Call, Messages, Page
from app.client.errors import LepoUnreachable, refusal
from app.client.ndjson import Lines
from app.client.retries import Retries
from app.client.shapes import Answer, Event, Grade, Interaction, Job, Move, Policy, Session, SessionGrade, Text
from app.client.sse import Reader

T = TypeVar("T")


class AsyncLepo:
    """A client with one key; for one event loop. Close it, or use it as a context.

    Every method raises `LepoRefused` where the service says no, and `LepoUnreachable` where no answer came, both after
    the retries.
    """

    def __init__(self, base_url: str, api_key: str, *, timeout_s: float = 60.0, retries: Retries | None = None) -> None:
        headers = {"Authorization": f"Bearer {api_key}"}
        self._http = httpx.AsyncClient(base_url=base_url, headers=headers, timeout=timeout_s)
        self._retries = retries or Retries()

    async def answer(self, question: Messages, **fields: Any) -> list[Answer]:
        """Ask, and give every answer (`n` of them). `fields` are those of a chat request."""
        return await self.send(calls.answer(question, **fields))

    async def stream(self, question: Messages, **fields: Any) -> AsyncIterator[Text | Answer]:
        """Ask, and give pieces of text as they come, each whole answer when it is committed."""
        call = calls.answer(question, stream=True, **fields)
        request = self._http.build_request(call.method, call.path, json=call.body)
        response = await self._repeated(request, call, stream=True)
        reader = Reader(response.headers.get("x-request-id"))
        try:
            async for line in response.aiter_lines():
                for news in reader.line(line):
                    yield news
        except httpx.TransportError as error:
            raise LepoUnreachable(f"The stream broke off: {error!r}") from error
        finally:
            await response.aclose()

    async def grade(
        self,
        answer_id: str,
        value: float | bool | None = None,
        *,
        correction: str | None = None,
        comment: str | None = None,
        grader: str | None = None,
    ) -> Grade:
        """Grade an answer (0 to 1, or a bool), or say what it should have been; done once, however often it is sent."""
        return await self.send(calls.grade(answer_id, value, correction=correction, comment=comment, grader=grader))

    async def take_back(self, answer_id: str, *, grader: str | None = None) -> Grade:
        """Take a grade back."""
        return await self.send(calls.take_back(answer_id, grader=grader))

    async def grading_token(self, answer_id: str, *, expires_in_s: int = 3600) -> str:
        """Make a token with which a browser grades this one answer."""
        return await self.send(calls.grading_token(answer_id, expires_in_s))

    async def interaction(self, answer_id: str) -> Interaction:
        """Read an answer back."""
        return await self.send(calls.interaction(answer_id))

    async def interactions(
        self, *, since: datetime | None = None, until: datetime | None = None, **filters: Any
    ) -> AsyncIterator[Interaction]:
        """Give every answer that fits, the newest first, page after page."""
        call: Call[Page[Interaction]] | None = calls.interactions(since=since, until=until, **filters)
        while call is not None:
            page = await self.send(call)
            for one in page.items:
                yield one
            call = page.rest

    async def session(self, name: str) -> Session:
        """Read a session with its turns, by your name for it or its id."""
        return await self.send(calls.session(name))

    async def grade_session(
        self,
        name: str,
        value: float | bool,
        *,
        credit: str | None = None,
        discount: float | None = None,
        comment: str | None = None,
        grader: str | None = None,
    ) -> SessionGrade:
        """Grade a whole session; `credit`: last_turn, all_turns or discounted, the turns that share the grade."""
        return await self.send(
            calls.grade_session(name, value, credit=credit, discount=discount, comment=comment, grader=grader)
        )

    async def sessions(self, **filters: Any) -> AsyncIterator[Session]:
        """Give every session that fits, the newest first, page after page."""
        call: Call[Page[Session]] | None = calls.sessions(**filters)
        while call is not None:
            page = await self.send(call)
            for one in page.items:
                yield one
            call = page.rest

    async def policies(self, **filters: Any) -> list[Policy]:
        """List policies, the newest first."""
        return await self.send(calls.policies(**filters))

    async def promote(self, policy: str | int, *, reason: str) -> Move:
        """Serve a policy, named by id or version."""
        return await self.send(calls.promote(policy, reason))

    async def rollback(self, to: str | int | None = None, *, reason: str) -> Move:
        """Serve an earlier policy again, and freeze learning."""
        return await self.send(calls.rollback(to, reason))

    async def overview(self) -> Mapping[str, Any]:
        """Read what is served, graded and learned, and whether it gets better."""
        return await self.send(calls.overview())

    async def version(self) -> Mapping[str, Any]:
        """Read what this server is, and which policy it serves."""
        return await self.send(calls.version())

    async def freeze(self, *, reason: str) -> Mapping[str, Any]:
        """Begin no update until thawed; one that runs is ended."""
        return await self.send(calls.freeze(reason))

    async def thaw(self, *, reason: str) -> Mapping[str, Any]:
        """Learn again."""
        return await self.send(calls.thaw(reason))

    async def start_job(self, config: Mapping[str, Any] | None = None) -> Job:
        """Ask for an update now."""
        return await self.send(calls.start_job(config))

    async def jobs(self, **filters: Any) -> list[Job]:
        """List jobs, the newest first."""
        return await self.send(calls.jobs(**filters))

    async def job(self, job_id: str) -> Job:
        """Read a job."""
        return await self.send(calls.job(job_id))

    async def cancel_job(self, job_id: str) -> Job:
        """Cancel a job."""
        return await self.send(calls.cancel_job(job_id))

    async def events(self, job_id: str, *, after: int = 0, every_s: float = 1.0) -> AsyncIterator[Event]:
        """Give a job's events as they happen, until it has ended."""
        while True:
            ended = (await self.job(job_id)).ended  # asked first: what it says last is still read
            found = await self.send(calls.events(job_id, after))
            for one in found:
                yield one
            if found:
                after = found[-1].id
            elif ended:
                return
            else:
                await asyncio.sleep(every_s)

    async def export(self, **filters: Any) -> AsyncIterator[Mapping[str, Any]]:
        """Give every answer that fits with its grades, the oldest first; `rollouts=True`: with what was sampled."""
        call = calls.export(**filters)
        request = self._http.build_request(call.method, call.path, params=call.params)
        response = await self._repeated(request, call, stream=True)
        lines = Lines()
        try:
            async for piece in response.aiter_bytes():
                for one in lines.piece(piece):
                    yield call.read(one)
        except httpx.TransportError as error:
            raise LepoUnreachable(f"The export broke off: {error!r}") from error
        finally:
            await response.aclose()

    async def metrics(self) -> str:
        """Read the server's metrics, in Prometheus' text form."""
        call = calls.metrics()
        return call.read((await self._repeated(self._http.build_request(call.method, call.path), call)).text)

    async def send(self, call: Call[T]) -> T:
        """Send a call and read its answer."""
        request = self._http.build_request(
            call.method, call.path, json=call.body, content=call.text, params=call.params, headers=call.headers
        )
        return call.read((await self._repeated(request, call)).json())

    async def _repeated(self, request: httpx.Request, call: Call[Any], *, stream: bool = False) -> httpx.Response:
        """Send a request until it is answered well, or patience ends."""
        attempt = 0
        while True:
            attempt += 1
            response, lost = None, None
            try:
                response = await self._http.send(request, stream=stream)
            except httpx.TransportError as error:
                lost = error
            if response is not None and response.is_success:
                return response
            wait_s = self._retries.wait_after(response, attempt, safe=call.safe)
            if response is not None:
                await response.aread()
            if wait_s is None:
                if response is not None:
                    raise refusal(response)
                raise LepoUnreachable(f"{call.method} {request.url}: {lost!r}") from lost
            await asyncio.sleep(wait_s)

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        """Use it as a context."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.close()
