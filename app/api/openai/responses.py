"""`POST /v1/responses`: OpenAI's newer API over the same answers as chat; stateless.

The answer's id is `resp_<32 hex>`, and grades by it work. Leaves out reading, listing and deleting responses:
an answer is read under `/v1/interactions`.
"""

from collections.abc import Mapping
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import JSONResponse, Response

from app.api.answering.answers import Answers
from app.api.answering.ask import APART, Ask, Prompt
from app.api.answering.checks import budget_for, check_fields, constraint_for, submitted
from app.api.answering.said_before import Conversation
from app.api.answering.sessions import IN_SESSION, SESSION_REFUSED, continued, session_of
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.shapes import OF_ANSWER, links, stream_of
from app.api.openai.responses_body import ResponseBody
from app.api.openai.responses_events import ResponseEvents
from app.api.openai.responses_shapes import ResponseAnswer, ResponseStreamEvent
from app.api.openai.stream import AnswerStream
from app.api.openai.tools import constraint_of, marks_of, reader_of
from app.api.openai.whole import gather
from app.api.server import Server, ServerDep
from app.errors import BadRequest

router = APIRouter()

IN_CHAT = {  # fields of the chat API that an error may name -> fields here
    "messages": "input",
    "response_format": "text.format",
    "response_format.json_schema.schema": "text.format.schema",
}
SAID_AS_MESSAGES = {"input", "instructions", "tools", "text", "max_output_tokens"}


@router.post(
    "/v1/responses",
    response_model=ResponseAnswer,
    responses={
        200: {**stream_of(ResponseStreamEvent, named=True), **links(*OF_ANSWER, interaction_id="/interaction_id")},
        **SESSION_REFUSED,
    },
    dependencies=[IN_SESSION],
    tags=["inference"],
)
async def responses(
    body: ResponseBody, request: Request, server: ServerDep, caller: Annotated[Caller, Depends(require("infer"))]
) -> Response:
    """Answer a conversation given as items."""
    ask = await response_ask(server, body, caller, session_of(server, caller, request.headers, body))
    answers = submitted(Answers(server, ask))
    events = ResponseEvents(ask, body, reader_of(server, body.box))
    if body.stream:
        return AnswerStream(answers, events)
    (choice,) = await gather(answers, request.receive)
    assert choice.stored is not None
    events.delta(0, choice.stored.finished.text, (), "")
    events.last(choice.stored, "")
    return JSONResponse(events.response())


async def response_ask(server: Server, body: ResponseBody, caller: Caller, session: str | None) -> Ask:
    """Check a request and bring it into the engine's terms; it is recorded in the chat API's.

    Raises:
        LepoError: it cannot be answered; `param` names the field.

    """
    fields, messages, box = body.in_chat(), body.messages, body.box
    check_fields(server, fields, caller, prompts=1)

    def render(verbatim: Mapping[int, str]) -> Prompt:
        return server.prompts.chat(messages, box, verbatim=verbatim)

    try:
        prompt = await server.prompts.apart(partial(render, {}))
        constraint = await constraint_of(server, fields, box) or await constraint_for(server, fields)
    except BadRequest as error:
        raise renamed(error) from error
    prompt = await continued(server, caller.key_id, session, prompt, Conversation(messages, render))
    offered = {"tools": list(box.tools)} if box.tools else {}
    asked = fields.model_dump(mode="json", exclude_none=True, exclude=APART | SAID_AS_MESSAGES)
    return Ask(
        endpoint="response",
        prompts=(prompt,),
        fields=fields,
        budget=budget_for(server, fields, (prompt,), "input", server.placements.of_chat),
        top_logprobs=0,
        logprobs=False,
        key_id=caller.key_id,
        grader_source=caller.grader_source,
        as_asked={**asked, "messages": messages, **offered},
        constraint=constraint,
        marks=marks_of(server, box),
        session=session,
    )


def renamed(error: BadRequest) -> BadRequest:
    """Name the field of this API where the chat API's is named."""
    param = IN_CHAT.get(error.param or "", error.param)
    message = error.message if error.param is None or param is None else error.message.replace(error.param, param)
    return BadRequest(message, param=param, code=error.code)
