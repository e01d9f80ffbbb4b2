"""A response of the Responses API, written as its events happen; the whole response is what they leave behind.

Text and calls become items in the order they were said. Leaves out when events are sent (`app.api.openai.stream`), and
reasoning items: latent steps are counted as reasoning tokens, and have no words.
"""

import json
from typing import Any

from app.api.answering.answers import Stored
from app.api.answering.ask import Ask
from app.api.http.errors import error_body
from app.api.openai.responses_body import ResponseBody
from app.chat.calls import Call, CallReader, Piece, call_id
from app.engine.request import TokenInfo
from app.errors import LepoError


class ResponseEvents:
    """Writes one response: server-sent events, numbered in order."""

    def __init__(self, ask: Ask, body: ResponseBody, reader: CallReader | None) -> None:
        self._ask = ask
        self._body = body
        self._reader = reader
        self._numbers = 0  # events written
        self._output: list[dict[str, Any]] = []  # items, the last one perhaps still open
        self._text: list[str] | None = None  # of the open message; None: none is open
        self._calls = 0
        self._stored: Stored | None = None
        self._error: LepoError | None = None

    def opening(self, choice: int, usage: str) -> str:  # noqa: ARG002 - a response has one choice
        """Write that it has begun."""
        return self._event("response.created", response=self.response()) + self._event(
            "response.in_progress", response=self.response()
        )

    def reasoned(self, choice: int, reading: str, usage: str) -> str:  # noqa: ARG002 - latent steps have no words
        """Write nothing."""
        return ""

    def delta(self, choice: int, text: str, tokens: tuple[TokenInfo, ...], usage: str) -> str:  # noqa: ARG002
        """Write new text, and calls that are complete."""
        pieces: list[Piece] = [text] if text else []
        return "".join(map(self._piece, pieces if self._reader is None else self._reader.push(text)))

    def last(self, stored: Stored, usage: str) -> str:  # noqa: ARG002 - a response says its own usage
        """Write the end, once the answer is stored."""
        events = [] if self._reader is None else [self._piece(piece) for piece in self._reader.end()]
        if not self._output:
            events.append(self._open_message())
        whole = stored.shown_reason == "stop"
        events.append(self._close_message("completed" if whole else "incomplete"))
        self._stored = stored
        kind = "response.completed" if whole else "response.incomplete"
        return "".join(events) + self._event(kind, response=self.response())

    def total(self, usage: str) -> str:  # noqa: ARG002 - the last event says it
        """Write nothing more."""
        return ""

    def failed(self, error: LepoError) -> str:
        """Write why there is no more."""
        self._error = error
        return self._event("response.failed", response=self.response())

    def response(self) -> dict[str, Any]:
        """Write the response as it is by now."""
        body, sampling = self._body, self._ask.budget.sampling
        return {
            "id": self._ask.completion_id,
            "object": "response",
            "created_at": self._ask.created,
            "status": self._status,
            "background": False,
            "error": None if self._error is None else failure(self._error),
            "incomplete_details": self._incomplete,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": None,
            "metadata": body.metadata or {},
            "model": body.model,
            "output": self._output if self._status != "in_progress" else [],
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "service_tier": "default",
            "store": body.store is not False,
            "temperature": sampling.temperature,
            "text": {"format": self._format},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_logprobs": 0,
            "top_p": sampling.top_p,
            "truncation": "disabled",
            "usage": None if self._stored is None else usage_of(self._stored, self._ask.prompt_tokens),
            "user": body.user,
            **({} if self._stored is None else self._stored.extra),
        }

    @property
    def _status(self) -> str:
        if self._error is not None:
            return "failed"
        if self._stored is None:
            return "in_progress"
        return "completed" if self._stored.shown_reason == "stop" else "incomplete"

    @property
    def _incomplete(self) -> dict[str, str] | None:
        if self._status != "incomplete" or self._stored is None:
            return None
        cut = self._stored.shown_reason == "length"
        return {"reason": "max_output_tokens" if cut else str(self._stored.finished.reason)}

    @property
    def _format(self) -> dict[str, Any]:
        given = None if self._body.text is None else self._body.text.format
        return {"type": "text"} if given is None else given.model_dump(exclude_none=True)

    def _piece(self, piece: Piece) -> str:
        if isinstance(piece, Call):
            return self._close_message("completed") + self._call(piece)
        opened = "" if self._text is not None else self._open_message()
        assert self._text is not None
        self._text.append(piece)
        return opened + self._event("response.output_text.delta", **self._part, delta=piece, logprobs=[])

    @property
    def _part(self) -> dict[str, Any]:
        """Where the open message's text is."""
        return {"item_id": self._output[-1]["id"], "output_index": len(self._output) - 1, "content_index": 0}

    def _open_message(self) -> str:
        place = len(self._output)
        item = {"id": f"msg_{self._ask.completion_hex}{place:x}", "type": "message", "role": "assistant"}
        self._output.append({**item, "status": "in_progress", "content": []})
        self._text = []
        added = self._event("response.output_item.added", output_index=place, item=self._output[-1])
        return added + self._event("response.content_part.added", **self._part, part=text_part(""))

    def _close_message(self, status: str) -> str:
        """Write the end of the open message, if one is."""
        if self._text is None:
            return ""
        text, self._text = "".join(self._text), None
        part, where = text_part(text), self._part
        self._output[-1] = {**self._output[-1], "status": status, "content": [part]}
        return (
            self._event("response.output_text.done", **where, text=text, logprobs=[])
            + self._event("response.content_part.done", **where, part=part)
            + self._event("response.output_item.done", output_index=where["output_index"], item=self._output[-1])
        )

    def _call(self, call: Call) -> str:
        place, named = len(self._output), call_id(self._ask.completion_id, 0, self._calls)
        self._calls += 1
        item = {"id": f"fc_{self._ask.completion_hex}{place:x}", "type": "function_call", "call_id": named}
        done = {**item, "name": call.name, "arguments": call.arguments, "status": "completed"}
        self._output.append(done)
        where = {"item_id": item["id"], "output_index": place}
        begun = {**done, "arguments": "", "status": "in_progress"}
        kind = "response.function_call_arguments"
        return (
            self._event("response.output_item.added", output_index=place, item=begun)
            + self._event(f"{kind}.delta", **where, delta=call.arguments)
            + self._event(f"{kind}.done", **where, name=call.name, arguments=call.arguments)
            + self._event("response.output_item.done", output_index=place, item=done)
        )

    def _event(self, kind: str, **fields: Any) -> str:
        data = json.dumps({"type": kind, "sequence_number": self._numbers, **fields})
        self._numbers += 1
        return f"event: {kind}\ndata: {data}\n\n"


def text_part(text: str) -> dict[str, Any]:
    """Write a text as a part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def usage_of(stored: Stored, prompt_tokens: int) -> dict[str, Any]:
    """Count tokens as the Responses API does: latent steps are output, and reasoning."""
    rollout = stored.finished.rollout
    output = rollout.latent_length + rollout.answer_length
    return {
        "input_tokens": prompt_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": rollout.latent_length},
        "total_tokens": prompt_tokens + output,
    }


def failure(error: LepoError) -> dict[str, Any]:
    """Write an error as responses carry it."""
    told = error_body(error)["error"]
    return {"code": "server_error" if error.status >= 500 else told["code"], "message": told["message"]}
