"""`POST /v1/chat/completions`: OpenAI's chat, answered with latent steps.

Leaves out tools, images and audio: the model is text in, text out, and says so with a 400.
"""

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import AfterValidator, Field
from starlette.responses import JSONResponse, Response

from app.api.answering.answers import Answers
from app.api.answering.ask import APART, Ask
from app.api.answering.checks import budget_for, check_fields, submitted
from app.api.answering.generation import COUNTS, GenerationFields
from app.api.answering.sessions import continued, session_of
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.fields import Ignored, only
from app.api.openai.chat_chunks import ChatChunks
from app.api.openai.messages import Message
from app.api.openai.stream import AnswerStream
from app.api.openai.whole import chat_completion, gather
from app.api.server import Server, ServerDep
from app.errors import BadRequest

router = APIRouter()


class ChatBody(GenerationFields):
    """The body of a chat request."""

    messages: list[Message] = Field([], description="At least one, unless the prompt is given as `prompt_token_ids`.")
    prompt_token_ids: list[int] | None = Field(
        None, min_length=1, description="The whole prompt as token ids, in the place of the rendered messages."
    )
    max_tokens: int | None = Field(None, ge=1, lt=COUNTS, description="Answer tokens, latent steps not counted.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    tools: Annotated[Any, AfterValidator(only([]))] = None
    tool_choice: Annotated[Any, AfterValidator(only("none", "auto"))] = None
    functions: Annotated[Any, AfterValidator(only([]))] = None
    function_call: Annotated[Any, AfterValidator(only("none", "auto"))] = None
    modalities: Annotated[Any, AfterValidator(only(["text"]))] = None
    audio: Annotated[Any, AfterValidator(only())] = None
    prediction: Annotated[Any, AfterValidator(only())] = None
    reasoning_effort: Annotated[Any, AfterValidator(only())] = None
    verbosity: Annotated[Any, AfterValidator(only("medium"))] = None
    web_search_options: Annotated[Any, AfterValidator(only())] = None
    parallel_tool_calls: Ignored = None


@router.post("/v1/chat/completions", response_model=None, tags=["inference"])
async def chat_completions(
    body: ChatBody, request: Request, server: ServerDep, caller: Annotated[Caller, Depends(require("infer"))]
) -> Response:
    """Answer a conversation."""
    ask = await chat_ask(server, body, caller, session_of(request.headers, body))
    answers = submitted(Answers(server, ask))
    if body.stream:
        return AnswerStream(answers, ChatChunks(ask, body.model, server.names))
    choices = await gather(answers, request.receive)
    return JSONResponse(chat_completion(answers, choices, body.model, server.names))


async def chat_ask(server: Server, body: ChatBody, caller: Caller, session: str | None) -> Ask:
    """Check a chat request and bring it into the engine's terms.

    Raises:
        LepoError: it cannot be answered; `param` names the field.

    """
    check_fields(server, body, caller, prompts=1)
    if not body.messages and body.prompt_token_ids is None:
        raise BadRequest("messages is empty: give at least one message, or prompt_token_ids.", param="messages")
    if body.top_logprobs and not body.logprobs:
        raise BadRequest("top_logprobs needs logprobs: true.", param="top_logprobs")
    if body.prompt_token_ids is not None:
        prompt = await server.prompts.apart(partial(server.prompts.tokens, body.prompt_token_ids, "prompt_token_ids"))
    else:
        messages = [message.for_template() for message in body.messages]
        prompt = await server.prompts.apart(partial(server.prompts.chat, messages))
    as_ids = body.prompt_token_ids is not None
    prompt = await continued(server, caller.key_id, session, prompt, as_ids=as_ids)
    return Ask(
        endpoint="chat",
        prompts=(prompt,),
        fields=body,
        budget=budget_for(server, body, (prompt,), "messages", server.placements.of_chat),
        top_logprobs=body.top_logprobs or 0,
        logprobs=bool(body.logprobs),
        key_id=caller.key_id,
        grader_source=caller.grader_source,
        as_asked=body.model_dump(mode="json", exclude_none=True, exclude=APART),
        session=session,
    )
