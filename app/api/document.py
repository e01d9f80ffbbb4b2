"""The document of the API (`/openapi.json`): what FastAPI reads from the routes, and what is so for all of them.

Which keys open a route is read from its own dependency (`door.auth.Required`), how it may refuse from what it takes; a
route added tomorrow is described by itself, and names the model of what it sends as `response_model`. Leaves out the
models (`shapes` in each room) and the page that shows all this (`app.api.console.docs`).
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.api.door.auth import Required, is_limited
from app.api.http.once import key_of_request
from app.api.http.shapes import Error

VERSION: Final = "3.2.0"  # of OpenAPI: the first that can say what the events of a stream are
TITLE: Final = "lepo"
SUMMARY: Final = "Stochastic latent reasoning, OpenAI-compatible, learning from grades."
WORDS: Final = """\
A response carries `X-Request-Id`; a request may bring its own. A request that does not arrive in time gets 408, one \
whose headers do not end 431. Listings are read in pages: `limit` and `after` are asked, `has_more` and `next_after` \
answered. A route that takes a body of JSON wants `Content-Type: application/json`. GET answers HEAD too. \
Models of what is sent may grow: let fields pass that you do not know.
"""
TAGS: Final = {
    "inference": "Answers, in OpenAI's two older APIs and its newer one.",
    "models": "What is served.",
    "tokens": "What the model sees of a text.",
    "interactions": "Answers read back.",
    "grades": "Grades and corrections of answers.",
    "sessions": "Turns that belong together, and grades of whole episodes.",
    "graders": "Graders tried out.",
    "data": "Removal and export.",
    "admin": "What operators do: keys, projects, jobs, policies, learning.",
    "health": "Is it alive, should it get traffic, what is it, its numbers.",
}
SCHEMES: Final = {
    "key": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "lepo-<id>-<secret>",
        "description": "A key, made by `lepo keys create` or `POST /v1/admin/keys`. Its scopes say what it opens: "
        "`infer` (ask, and read one's own answers), `grade`, and `admin`, which has the others in it and is of one "
        "project or of the service.",
    },
    "grading_token": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "lepo-grade.<...>",
        "description": "Lent to a browser by `POST /v1/interactions/{id}/grading_tokens`: it grades one answer a few "
        "times and does nothing else.",
    },
}
REFUSALS: Final[Mapping[int, tuple[str, str]]] = {  # status -> name, and when
    400: ("BadRequest", "The request is malformed or asks for the impossible; `param` names the field."),
    401: ("Unauthorized", "No key, or one that opens nothing."),
    403: ("Forbidden", "A good key that may not do this."),
    404: ("NotFound", "There is no such thing, or it is another's."),
    409: ("Conflict", "The state does not allow it now, or the first request with this `Idempotency-Key` still runs."),
    413: ("TooLarge", "The body, or a text in it, is larger than this server takes."),
    415: ("NotEncoded", "The body is compressed."),
    422: ("Unprocessable", "The `Idempotency-Key` was used for another request."),
    429: (
        "TooMany",
        "A rate, a quota or the queue is full; or this address sent too many keys that open nothing.",
    ),
    500: ("ServerError", "An error of the server; its log says which."),
    503: ("Unavailable", "A part of the service is away, starting or stopping."),
}
WAITS: Final = frozenset({409, 429, 503})  # which may say when to come back
RATES: Final = tuple(
    f"X-RateLimit-{of}-{what}" for what in ("Requests", "Tokens") for of in ("Limit", "Remaining", "Reset")
)
HEADERS: Final[Mapping[str, Mapping[str, Any]]] = {
    "X-Request-Id": {
        "description": "Names this request in the logs; as the request named itself, if it did.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    },
    "Retry-After": {
        "description": "Seconds after which the same request may succeed.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "WWW-Authenticate": {"description": "How to come in.", "required": True, "schema": {"const": "Bearer"}},
    **{
        name: {"description": "Where the key or its project has a rate.", "schema": {"type": "string"}}
        for name in RATES
    },
}


def document(app: FastAPI, routers: Sequence[APIRouter], models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """Write the document of an application.

    Args:
        app: with the routes.
        routers: the same routes, as they were declared.
        models: that nothing but a stream's description names.

    """
    found = get_openapi(
        title=TITLE,
        version=version("lepo-service"),
        openapi_version=VERSION,
        summary=SUMMARY,
        description=WORDS,
        routes=app.routes,
        tags=[{"name": name, "description": words} for name, words in TAGS.items()],
    )
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute) and route.include_in_schema:
                for method in route.methods or ():
                    operation = found["paths"][route.path_format][method.lower()]
                    complete(operation, route, method)
    parts = found["components"]
    unnamed: list[type[BaseModel]] = [Error, *models]
    _, named = models_json_schema(
        [(model, "serialization") for model in unnamed], ref_template="#/components/schemas/{model}"
    )
    unused = {"HTTPValidationError", "ValidationError"}
    schemas = {**parts["schemas"], **named["$defs"]}
    parts["schemas"] = {name: schemas[name] for name in sorted(schemas) if name not in unused}
    parts["responses"] = {name: refusal(status, words) for status, (name, words) in REFUSALS.items()}
    parts["headers"] = dict(HEADERS)
    parts["securitySchemes"] = SCHEMES
    return dict(whole(found))


def whole(node: Any) -> Any:
    """Write bounds as whole numbers where they are; FastAPI makes all of them floats."""
    if isinstance(node, dict):
        return {name: whole(value) for name, value in node.items()}
    if isinstance(node, list):
        return [whole(value) for value in node]
    return int(node) if isinstance(node, float) and node.is_integer() else node


def complete(operation: dict[str, Any], route: APIRoute, method: str) -> None:
    """Say of one operation what is so for all of its kind."""
    asked = [one.call for one in dependants(route.dependant)]
    needed = next((call for call in asked if isinstance(call, Required)), None)
    operation["operationId"] = route.name
    operation["security"] = security(needed)
    if needed is not None and needed.scope == "admin":
        whose = "of the service, or of a project" if needed.projects else "of the service"
        operation["description"] = f"{operation.get('description', '')}\n\nNeeds an admin key {whose}.".lstrip()
    responses = operation["responses"]
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]
    for status in refused(operation, repeatable=key_of_request in asked):
        own = responses.get(str(status))
        name, _ = REFUSALS[status]
        shared = {"$ref": f"#/components/responses/{name}"}
        responses[str(status)] = shared if own is None else {**refusal(status, own["description"]), **own}
    limited = needed is not None and is_limited({"method": method, "path": route.path})
    for status, response in responses.items():
        if int(status) < 400:
            response["headers"] = {
                **headers("X-Request-Id", *(RATES if limited else ())),
                **response.get("headers", {}),
            }
    for response in responses.values():
        for described in response.get("content", {}).values():
            if "itemSchema" in described:
                described.pop("schema", None)  # of the whole stream: there is none
    operation["responses"] = dict(sorted(responses.items()))


def dependants(found: Dependant) -> Iterator[Dependant]:
    """Give what a route depends on, and what that depends on."""
    yield found
    for one in found.dependencies:
        yield from dependants(one)


def security(needed: Required | None) -> list[dict[str, list[str]]]:
    """Say which keys open a route; [] opens to everyone."""
    if needed is None:
        return []
    keys: list[dict[str, list[str]]] = [{"key": [needed.scope]}]
    return [*keys, {"grading_token": []}] if needed.tokens else keys


def refused(operation: Mapping[str, Any], *, repeatable: bool) -> list[int]:
    """Say with which statuses an operation may be refused: what it takes, and what it names itself."""
    found = {int(status) for status in operation["responses"] if int(status) in REFUSALS}
    if not operation["security"]:
        return sorted(found)
    found |= {401, 403, 429, 500, 503}
    if operation.get("parameters") or "requestBody" in operation:
        found.add(400)
    if any(one["in"] == "path" for one in operation.get("parameters", ())):
        found.add(404)
    if "requestBody" in operation:
        found |= {413, 415}
    if repeatable:
        found |= {409, 422}
    return sorted(found)


def refusal(status: int, words: str) -> dict[str, Any]:
    """Describe a response that is an error."""
    names = ["X-Request-Id"]
    names += ["WWW-Authenticate"] if status == 401 else []
    names += ["Retry-After"] if status in WAITS else []
    return {
        "description": words,
        "headers": headers(*names, *(RATES if status == 429 else ())),
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }


def headers(*names: str) -> dict[str, Any]:
    """Name headers that are described once."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}
