"""`POST /v1/chat/completions`: OpenAI's chat, answered with latent steps, in words or in calls of tools.

Leaves out images and audio: the model is text in, text out, and says so with a 400.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from starlette.responses import JSONResponse, Response

from app.api.answering.answers import Answers
from app.api.answering.ask import APART, Ask, Prompt
from app.api.answering.checks import budget_for, check_fields, constraint_for, submitted
from app.api.answering.generation import COUNTS, GenerationFields
from app.api.answering.said_before import Conversation
from app.api.answering.sessions import IN_SESSION, SESSION_REFUSED, continued, session_of
from app.api.answering.trial_routing import WANTED, wanted_version
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.fields import JsonObject, example, only
from app.api.http.rendering import json_apart
from app.api.http.shapes import OF_ANSWER, links, stream_of
from app.api.openai.chat_chunks import ChatChunks
from app.api.openai.chat_shapes import ChatCompletion, ChatCompletionChunk
from app.api.openai.messages import Message, for_template
from app.api.openai.stream import AnswerStream
from app.api.openai.tools import Legacy, ToolChoice, Tools, constraint_of, marks_of, reader_of, toolbox
from app.api.openai.whole import chat_completion, gather
from app.api.server import Server, ServerDep
from app.chat.tools import Toolbox
from app.errors import BadRequest, Forbidden
from training.placement import Placement

router = APIRouter()


class ChatBody(GenerationFields):
    """The body of a chat request."""

    model_config = example(
        model="lepo", messages=[{"role": "user", "content": "Work out 47 + 6 - 8 + 9."}], max_tokens=64
    )

    messages: list[Message] = Field([], description="At least one, unless the prompt is given as `prompt_token_ids`.")
    prompt_token_ids: list[int] | None = Field(
        None, min_length=1, description="The whole prompt as token ids, in the place of the rendered messages."
    )
    max_tokens: int | None = Field(None, ge=1, lt=COUNTS, description="Answer tokens, latent steps not counted.")
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)

    chat_template_kwargs: JsonObject | None = Field(None, description="Variables that the model's chat template reads.")
    add_generation_prompt: bool | None = Field(None, description="False: leave out the opening of the answer.")
    continue_final_message: bool | None = Field(None, description="Go on with the last message, the assistant's.")
    add_special_tokens: Annotated[Any, only(False)] = None  # the template writes them
    echo: Annotated[Any, only(False)] = None
    chat_template: Annotated[Any, only()] = None

    tools: Tools | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = Field(None, description="False: an answer holds one call at most.")
    functions: Legacy = None
    function_call: Legacy = None
    modalities: Annotated[Any, only(["text"])] = None
    audio: Annotated[Any, only()] = None
    prediction: Annotated[Any, only()] = None
    reasoning_effort: Annotated[Any, only()] = None
    verbosity: Annotated[Any, only("medium")] = None
    web_search_options: Annotated[Any, only()] = None

    @property
    def box(self) -> Toolbox:
        """What the answers may call."""
        functions = [tool.function for tool in self.tools or ()]
        return toolbox(functions, self.tool_choice, parallel=self.parallel_tool_calls)


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={
        200: {**stream_of(ChatCompletionChunk), **links(*OF_ANSWER, interaction_id="/choices/0/interaction_id")},
        **SESSION_REFUSED,
    },
    dependencies=[IN_SESSION],
    tags=["inference"],
)
async def chat_completions(
    body: ChatBody, request: Request, server: ServerDep, caller: Annotated[Caller, Depends(require("infer"))]
) -> Response:
    """Answer a conversation."""
    ask = await chat_ask(server, body, caller, session_of(server, caller, request.headers, body))
    if WANTED in request.headers:
        ask = replace(ask, version=version_of(request, server, caller))
    answers = submitted(Answers(server, ask))
    readers = [reader_of(server, body.box) for _ in range(ask.choices)]
    if body.stream:
        return AnswerStream(answers, ChatChunks(ask, body.model, server.names, readers))
    choices = await gather(answers, request.receive)
    shown = partial(chat_completion, answers, choices, body.model, server.names, readers)
    return await json_apart(shown, server.render) if ask.logprobs else JSONResponse(shown())


def version_of(request: Request, server: Server, caller: Caller) -> int | None:
    """Read which version an admin wants to be answered by.

    Raises:
        Forbidden: the caller is no admin: a trial's draw is not for users to undo.

    """
    if not caller.may("admin"):
        raise Forbidden(f"{WANTED} needs an admin key.", param=WANTED)
    return wanted_version(request.headers.get(WANTED), server.engine.version, server.trial)


async def chat_ask(server: Server, body: ChatBody, caller: Caller, session: str | None) -> Ask:
    """Check a chat request and bring it into the engine's terms.

    Raises:
        LepoError: it cannot be answered; `param` names the field.

    """
    check_fields(server, body, caller, prompts=1)
    if not body.messages and body.prompt_token_ids is None:
        code = "invalid_value" if "messages" in body.model_fields_set else "missing_required_parameter"
        raise BadRequest("Give messages, at least one, or prompt_token_ids.", param="messages", code=code)
    if body.top_logprobs and not body.logprobs:
        raise BadRequest("top_logprobs needs logprobs: true.", param="top_logprobs")
    box = body.box
    said = None if body.prompt_token_ids is not None else conversation_of(server, body, box)
    prompt, placement = await chat_prompt(server, body, said)
    prompt = await continued(server, caller.key_id, session, prompt, said, as_ids=said is None)
    return Ask(
        endpoint="chat",
        prompts=(prompt,),
        fields=body,
        budget=budget_for(server, body, (prompt,), "messages", placement),
        top_logprobs=body.top_logprobs or 0,
        logprobs=bool(body.logprobs),
        key_id=caller.key_id,
        grader_source=caller.grader_source,
        as_asked=body.model_dump(mode="json", exclude_none=True, exclude=APART),
        constraint=await constraint_of(server, body, box) or await constraint_for(server, body),
        marks=marks_of(server, box),
        session=session,
        goes_on=bool(body.continue_final_message),
    )


def conversation_of(server: Server, body: ChatBody, box: Toolbox) -> Conversation:
    """Make ready to render messages.

    Raises:
        BadRequest: they are none; `param` names the field.

    """
    messages = for_template(body.messages)
    continues = bool(body.continue_final_message)
    if continues and (body.add_generation_prompt or messages[-1]["role"] != "assistant"):
        words = "continue_final_message goes on with a last message of the assistant, without add_generation_prompt."
        raise BadRequest(words, param="continue_final_message")

    def render(verbatim: Mapping[int, str]) -> Prompt:
        return server.prompts.chat(
            messages,
            box,
            reply=not continues and body.add_generation_prompt is not False,
            continues=continues,
            settings=body.chat_template_kwargs,
            verbatim=verbatim,
        )

    return Conversation(messages, render)


async def chat_prompt(server: Server, body: ChatBody, said: Conversation | None) -> tuple[Prompt, Placement | None]:
    """Render a conversation, or take it as the token ids it came as; with it where latent steps sit by default.

    Raises:
        BadRequest: the template refuses it, or an id is none; `param` names the field.

    """
    if said is None:
        assert body.prompt_token_ids is not None
        given = partial(server.prompts.tokens, body.prompt_token_ids, "prompt_token_ids")
        return await server.prompts.apart(given), server.placements.of_chat
    placement = server.placements.of_text if body.continue_final_message else server.placements.of_chat
    return await server.prompts.apart(partial(said.render, {})), placement
