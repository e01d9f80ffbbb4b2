"""`POST /v1/completions`: text or token ids in, text out; several prompts at once; `echo` and `logprobs` for scoring.

A prompt is a text, a list of texts, token ids, or a list of lists of token ids. Leaves out `suffix` and `best_of`.
"""

import asyncio
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import AfterValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError
from starlette.responses import JSONResponse, Response

from app.api.answering.answers import Answers
from app.api.answering.ask import APART, Ask, Prompt
from app.api.answering.checks import budget_for, check_fields, constraint_for, submitted
from app.api.answering.generation import GenerationFields
from app.api.answering.prompts import PromptReader
from app.api.answering.sessions import IN_SESSION, SESSION_REFUSED, continued, session_of
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.disconnect import watched
from app.api.http.fields import NO_NUL, example, only, storable
from app.api.http.rendering import json_apart
from app.api.http.shapes import OF_ANSWER, links, stream_of
from app.api.openai.completion_chunks import CompletionChunks
from app.api.openai.completion_shapes import TextCompletion, TextCompletionChunk
from app.api.openai.echo import Echo
from app.api.openai.stream import AnswerStream
from app.api.openai.whole import gather, text_completion
from app.api.server import Server, ServerDep
from app.engine.score import ScoreFailed
from app.errors import BadRequest, Cancelled, Unavailable

router = APIRouter()

MOST_LOGPROBS = 20
IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
STORABLE = {"type": "string", **NO_NUL}
PROMPT_SCHEMA = {
    "anyOf": [
        STORABLE,
        {"type": "array", "items": STORABLE, "minItems": 1},
        IDS,
        {"type": "array", "items": IDS, "minItems": 1},
    ]
}


def check_prompt(value: Any) -> Any:
    """Tell the four forms of a prompt apart.

    Raises:
        PydanticCustomError: it is none of them, or empty.

    """
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return [storable(item) for item in value]
        if is_ids(value) or all(is_ids(item) for item in value):
            return value
    raise PydanticCustomError(
        "invalid_value", "must be a text, a list of texts, a list of token ids, or a list of such lists, none empty"
    )


def is_ids(value: Any) -> bool:
    """Tell whether this is a list of whole numbers."""
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


class CompletionBody(GenerationFields):
    """The body of a plain completion request."""

    model_config = example(model="lepo", prompt="47 + 6 - 8 + 9 =", max_tokens=16)

    prompt: Annotated[Any, AfterValidator(check_prompt), WithJsonSchema(PROMPT_SCHEMA)]
    echo: bool | None = None
    add_special_tokens: bool | None = Field(None, description="False: read a text without the tokens put around one.")
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS)

    best_of: int | None = Field(None, ge=1, description="Must equal n.")
    suffix: Annotated[Any, only("")] = None

    @property
    def prompts(self) -> list[Any]:
        """The prompts one by one, each a text or a list of ids."""
        several = isinstance(self.prompt, list) and not isinstance(self.prompt[0], int)
        return list(self.prompt) if several else [self.prompt]


@router.post(
    "/v1/completions",
    response_model=TextCompletion,
    responses={
        200: {**stream_of(TextCompletionChunk), **links(*OF_ANSWER, interaction_id="/choices/0/interaction_id")},
        **SESSION_REFUSED,
    },
    dependencies=[IN_SESSION],
    tags=["inference"],
)
async def completions(
    body: CompletionBody, request: Request, server: ServerDep, caller: Annotated[Caller, Depends(require("infer"))]
) -> Response:
    """Continue one or more prompts."""
    ask = await completion_ask(server, body, caller, session_of(server, caller, request.headers, body))
    echoes = await echoed(server, ask, request) if body.echo else ()
    if body.max_tokens == 0:
        return await json_apart(partial(scores, server, ask, echoes), server.render)
    answers = submitted(Answers(server, ask))
    if body.stream:
        return AnswerStream(answers, CompletionChunks(ask, body.model, server.prompts, server.names, echoes))
    choices = await gather(answers, request.receive)
    shown = partial(text_completion, answers, choices, body.model, server.names, echoes)
    return await json_apart(shown, server.render) if ask.logprobs else JSONResponse(shown())


async def completion_ask(server: Server, body: CompletionBody, caller: Caller, session: str | None) -> Ask:
    """Check a completion request and bring it into the engine's terms.

    Raises:
        LepoError: it cannot be answered; `param` names the field.

    """
    check_fields(server, body, caller, prompts=len(body.prompts))
    if body.best_of is not None and body.best_of != body.choices:
        raise BadRequest("best_of must equal n: answers are not ranked here.", param="best_of")
    if body.max_tokens == 0 and (not body.echo or body.stream):
        raise BadRequest("max_tokens may be 0 only with echo and without stream.", param="max_tokens")
    prompts = tuple(await server.prompts.apart(partial(read_prompts, server.prompts, body)))
    if len(prompts) == 1:
        as_ids = not isinstance(body.prompts[0], str)
        prompts = (await continued(server, caller.key_id, session, prompts[0], as_ids=as_ids),)
    return Ask(
        endpoint="completion",
        prompts=prompts,
        fields=body,
        budget=budget_for(server, body, prompts, "prompt", server.placements.of_text),
        top_logprobs=body.logprobs or 0,
        logprobs=body.logprobs is not None,
        key_id=caller.key_id,
        grader_source=caller.grader_source,
        as_asked=await server.prompts.apart(partial(body.model_dump, mode="json", exclude_none=True, exclude=APART)),
        constraint=await constraint_for(server, body),
        session=session,
        goes_on=True,
    )


def read_prompts(reader: PromptReader, body: CompletionBody) -> list[Prompt]:
    """Tokenize what is text, check what is ids."""
    return [
        reader.text(prompt, "prompt", special=body.add_special_tokens is not False)
        if isinstance(prompt, str)
        else reader.tokens(prompt, "prompt")
        for prompt in body.prompts
    ]


async def echoed(server: Server, ask: Ask, request: Request) -> tuple[Echo, ...]:
    """Prepare the prompts to be shown; scored by the engine where log-probabilities are wanted.

    Raises:
        EngineRefusal: the engine takes no more.
        BadRequest: this model cannot be scored.
        Unavailable: a prompt could not be scored.
        Cancelled: the client left; prompts whose turn had not come are not scored.

    """
    if not ask.logprobs:
        return tuple(Echo(prompt, ()) for prompt in ask.prompts)
    waiting = [server.engine.score(prompt.ids, ask.top_logprobs) for prompt in ask.prompts]

    def give_up() -> None:
        for future in waiting:
            future.cancel()

    try:
        async with watched(request.receive, give_up):
            scored = [await asyncio.wrap_future(future) for future in waiting]
    except ValueError as error:
        raise BadRequest(f"This model's prompts cannot be scored: {error}.", param="logprobs") from error
    except ScoreFailed as error:
        give_up()
        raise Unavailable(str(error), retry_after=1.0) from error
    except asyncio.CancelledError as error:
        if any(future.cancelled() for future in waiting):
            raise Cancelled("The client left before its prompts were scored.") from error
        raise
    echoes = tuple(Echo(prompt, tuple(one)) for prompt, one in zip(ask.prompts, scored, strict=True))
    if not ask.fields.stream:
        return echoes
    return await server.render(lambda: tuple(one.written(server.prompts, server.names) for one in echoes))


def scores(server: Server, ask: Ask, echoes: tuple[Echo, ...]) -> dict[str, Any]:
    """Write a response that only scores its prompts: nothing was generated, so nothing is recorded."""
    choices = (
        {
            "index": index,
            "text": echo.text,
            "logprobs": echo.logprobs(server.prompts, server.names) if ask.logprobs else None,
            "finish_reason": "length",
        }
        for index, echo in enumerate(echoes)
    )
    usage = {"prompt_tokens": ask.prompt_tokens, "completion_tokens": 0, "total_tokens": ask.prompt_tokens}
    return {
        "id": ask.completion_id,
        "object": "text_completion",
        "created": ask.created,
        "model": ask.fields.model,
        "choices": choices,
        "usage": usage,
    }
