"""How an error is written on the wire: OpenAI's shape, for every way a request can fail.

    {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

The tree of errors with their statuses is `app.errors`; engine refusals and validation errors are brought into it here.
Leaves out deciding what is an error: that is the routes' and the store's.
"""

import json
import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from app.engine.request import EngineClosed, EngineRefusal, QueueFull, RequestTooLong
from app.errors import BadRequest, LepoError, TooMany, Unavailable

log = logging.getLogger("lepo.api")

LONGEST_MESSAGE = 1000  # characters; what a caller sent may be in it
LONGEST_PARAM = 200
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}
CODES = {  # pydantic's word for what is wrong -> ours
    "extra_forbidden": "unknown_parameter",
    "missing": "missing_required_parameter",
    "json_invalid": "invalid_json",
    "unsupported_parameter": "unsupported_parameter",
    "invalid_text": "invalid_text",
}


def error_body(error: LepoError) -> dict[str, Any]:
    """Write an error as OpenAI's clients read it."""
    kind = TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    message, param = shortened(error.message, LONGEST_MESSAGE), error.param and shortened(error.param, LONGEST_PARAM)
    return {"error": {"message": message, "type": kind, "param": param, "code": error.code}}


def shortened(text: str, longest: int) -> str:
    """Bound a text that quotes a caller: an error must not send back a megabyte."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def error_response(error: LepoError) -> JSONResponse:
    """Answer with an error, with the headers its status asks for."""
    headers: dict[str, str] = {}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, TooMany):
        headers |= error.headers
    return JSONResponse(error_body(error), error.status, headers)


def refusal(error: EngineRefusal) -> LepoError:
    """Bring the engine's reasons for not taking a request into the tree."""
    if isinstance(error, QueueFull):
        return TooMany(str(error), code="queue_full", retry_after=error.retry_after_s)
    if isinstance(error, RequestTooLong):
        return BadRequest(str(error), param=error.param, code="context_length_exceeded")
    assert isinstance(error, EngineClosed)
    return Unavailable("The server is stopping; retry on another replica.", code="stopping", retry_after=5)


def invalid(error: RequestValidationError) -> LepoError:
    """Name the first field that is wrong, by its path in the request as it was sent.

    Of the complaints of a union's members, the one about the value says more than those about its type.
    """
    errors = error.errors()
    first = next((one for one in errors if not one["type"].endswith("_type")), errors[0])
    code = CODES.get(first["type"], "invalid_value")
    if first["type"] == "json_invalid":
        detail = first.get("ctx", {}).get("error", "it does not parse")
        return BadRequest(f"The body is not JSON: {detail} (position {first['loc'][-1]}).", code=code)
    if isinstance(error.body, bytes):
        return BadRequest("The body must be JSON, with `Content-Type: application/json`.", code="invalid_json")
    place, *rest = first["loc"] or ("body",)
    path = field_path(error.body, rest) if place == "body" else ".".join(map(str, rest))
    text = f"{path}: {first['msg']}." if path else f"{first['msg']}."
    return BadRequest(text.replace("..", "."), param=path or None, code=code)


def field_path(body: Any, loc: list[int | str]) -> str:
    """Write pydantic's location as a path into the body: `messages[1].content`.

    The names of union members that pydantic puts between the keys lead nowhere in the body and are dropped.
    """
    path, node = "", body
    for position, part in enumerate(loc):
        if isinstance(part, int):
            if isinstance(node, list) and part < len(node):
                path, node = f"{path}[{part}]", node[part]
        elif isinstance(node, Mapping) and (part in node or position == len(loc) - 1):
            path, node = f"{path}.{part}" if path else part, node.get(part)
    return path


async def on_lepo_error(request: Request, error: Exception) -> Response:
    """Answer an error of the product's own tree."""
    assert isinstance(error, LepoError)
    if error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("%s %s: %s", request.method, request.url.path, error.message)
    return error_response(error)


async def on_refusal(_request: Request, error: Exception) -> Response:
    """Answer what the engine did not take."""
    assert isinstance(error, EngineRefusal)
    return error_response(refusal(error))


async def on_invalid(_request: Request, error: Exception) -> Response:
    """Answer a body or parameter that does not fit its schema."""
    assert isinstance(error, RequestValidationError)
    return error_response(invalid(error))


async def on_http_exception(request: Request, error: Exception) -> Response:
    """Answer an unknown route, a wrong method, or a body that could not be read."""
    assert isinstance(error, HTTPException)
    words = {404: f"No route {request.url.path}.", 405: f"{request.url.path} does not take {request.method}."}
    codes = {404: "route_not_found", 405: "method_not_allowed"}
    shown = LepoError(
        words.get(error.status_code, str(error.detail)), code=codes.get(error.status_code, "invalid_request")
    )
    shown.status = error.status_code  # type: ignore[misc]  # starlette's own statuses are not in the tree
    response = error_response(shown)
    response.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = request.app.state.methods.of(request.url.path) or response.headers["Allow"]
    return response


async def on_bug(_request: Request, _error: Exception) -> Response:
    """Answer what should not have happened; uvicorn logs the traceback."""
    return error_response(LepoError("An error of the server; its log says which. The request was not completed."))


def install(app: FastAPI) -> None:
    """Hand every kind of error its handler."""
    app.add_exception_handler(LepoError, on_lepo_error)
    app.add_exception_handler(EngineRefusal, on_refusal)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(Exception, on_bug)


def error_event(error: LepoError) -> bytes:
    """Write an error as a server-sent event, for a stream whose status line has left already."""
    return b"data: " + json.dumps(error_body(error)).encode() + b"\n\n"
