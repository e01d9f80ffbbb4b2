"""The document of the API in the hands of tests: the schema of a response, closed, and what a response has against it.

Models of what is sent leave room for fields of later releases; here there is none, so that what is sent and not
described is seen.
"""

import json
import re
from typing import Any, Final

import httpx
from jsonschema import Draft202012Validator
from jsonschema.protocols import Validator

from app.commands.openapi import text

DOCUMENT: Final[dict[str, Any]] = json.loads(text())
METHODS: Final = ("get", "post", "patch", "delete")


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    """Every operation with its method and path."""
    return [(method, path, found) for path, of in DOCUMENT["paths"].items() for method, found in of.items()]


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    """What a reference means."""
    found: Any = node
    while "$ref" in found:
        parts = found["$ref"].removeprefix("#/").split("/")
        found = DOCUMENT
        for part in parts:
            found = found[part]
    return dict(found)


def sent() -> set[str]:
    """Names of the schemas of what is sent, with those inside them."""
    names: set[str] = set()
    pending: list[Any] = [operation["responses"] for _, _, operation in operations()] + [
        DOCUMENT["components"]["responses"]
    ]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            reference = str(node.get("$ref", ""))
            name = reference.rpartition("/")[2]
            if reference.startswith("#/components/schemas/") and name not in names:
                names.add(name)
                pending.append(DOCUMENT["components"]["schemas"][name])
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)
    return names


def closed() -> dict[str, Any]:
    """All schemas, those of what is sent without room for more."""
    outgoing = sent()
    return {
        name: {**schema, "additionalProperties": False} if name in outgoing and "properties" in schema else schema
        for name, schema in DOCUMENT["components"]["schemas"].items()
    }


CLOSED: Final = closed()


def validator(schema: dict[str, Any]) -> Validator:
    """Hold something against a schema of the document."""
    whole = {**schema, "components": {"schemas": CLOSED}}
    return Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER)


def operation_of(method: str, path: str) -> dict[str, Any]:
    """The operation that a request asked for: the path that is its own goes before one with an id in it."""
    of = DOCUMENT["paths"]
    found: dict[str, Any] = of[min((one for one in of if fits(one, path)), key=lambda one: one.count("{"))][
        method.lower()
    ]
    return found


def fits(template: str, path: str) -> bool:
    """Whether a path is one of a template; names of users and models may hold slashes."""
    inside = ".+" if "{user}" in template or "{model}" in template else "[^/]+"
    return re.fullmatch(re.sub(r"\{\w+\}", lambda _: inside, template.replace(".", r"\.")), path) is not None


def require_described(response: httpx.Response) -> None:
    """Hold a response against the document: status, headers, content type, body, events."""
    operation = operation_of(response.request.method, response.request.url.path)
    status = str(response.status_code)
    assert status in operation["responses"], (response.request.url, status, response.text)
    described = resolved(operation["responses"][status])
    for name, header in described.get("headers", {}).items():
        assert name in response.headers or not resolved(header).get("required"), (response.request.url, name)
    kind = response.headers["content-type"].partition(";")[0]
    content = described["content"][kind]
    for schema, item in items(content, kind, response.text):
        wrong = [f"{error.json_path}: {error.message[:300]}" for error in validator(schema).iter_errors(item)]
        assert not wrong, (response.request.method, response.request.url, wrong)


def items(content: dict[str, Any], kind: str, body: str) -> list[tuple[dict[str, Any], Any]]:
    """What is described in a body, each with its schema."""
    if kind == "application/json":
        return [(content["schema"], json.loads(body))]
    if kind == "application/x-ndjson":
        return [(content["itemSchema"], json.loads(line)) for line in body.splitlines()]
    if kind == "text/event-stream":
        data = content["itemSchema"]["properties"]["data"]
        of_json = data if "contentSchema" in data else data["anyOf"][1]
        told = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
        return [(of_json["contentSchema"], json.loads(one)) for one in told if one != "[DONE]"]
    return []
