"""What is sent, as models: the base they share, errors, and how a stream is described.

Models of what is sent are for the document (`app.api.document`) and for tests, which hold what was really sent against
them. Nothing is validated while serving: answers are written once, by hand. Leaves out what each room sends
(`shapes` in each) and what is received (`fields`).
"""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from app.identifiers import Prefix

Time = Annotated[datetime, Field(description="ISO 8601, with a zone.", examples=["2026-01-31T12:00:00.000000+00:00"])]
Object = dict[str, Any]  # free-form JSON


def identifier(prefix: Prefix) -> Any:
    """Describe an id, as `app.identifiers.show` writes it."""
    digits = "0198c5f3a1b27c4d8e9f0a1b2c3d4e5f"
    return Field(pattern=f"^{prefix}_[0-9a-f]{{32}}$", examples=[f"{prefix}_{digits}"])


AnswerId = Annotated[str, identifier("int")]
GradeId = Annotated[str, identifier("grade")]
SessionId = Annotated[str, identifier("sess")]
CheckpointId = Annotated[str, identifier("ckpt")]
JobId = Annotated[str, identifier("job")]


class Shape(BaseModel):
    """Something that is sent; a later release may add fields, and a client should let them pass."""

    model_config = ConfigDict(protected_namespaces=(), serialize_by_alias=True)


class ErrorDetail(Shape):
    """What is wrong, and what to do about it."""

    message: str = Field(description="For people.")
    type: str = Field(description="Its kind, by the status.", examples=["invalid_request_error"])
    param: str | None = Field(description="The field that is wrong, as a path.", examples=["messages[0].content"])
    code: str = Field(description="For programs; stable.", examples=["invalid_value"])


class Error(Shape):
    """Every error, whatever its status."""

    error: ErrorDetail


class Reward(Shape):
    """What the grades of an answer come to."""

    value: float = Field(description="0 to 1.", examples=[1.0])
    graders: int = Field(ge=1, description="How many count.")


def stream_of(model: type[BaseModel], *, named: bool = False) -> dict[str, Any]:
    """Describe a stream of server-sent events, each of whose `data` is JSON of a model.

    Args:
        model: of `data`.
        named: whether each event has a name, and the last one says how it ended; else an error takes the place of what
            cannot come, and the last `data` is `[DONE]`.

    """
    said = {"$ref": f"#/components/schemas/{model.__name__}"}
    error = {"$ref": "#/components/schemas/Error"}
    data: dict[str, Any] = {"type": "string", "contentMediaType": "application/json", "contentSchema": said}
    if not named:
        data = {"anyOf": [{"const": "[DONE]"}, {**data, "contentSchema": {"anyOf": [said, error]}}]}
    item: dict[str, Any] = {"type": "object", "required": ["data"], "properties": {"data": data}}
    if named:
        item["required"] = ["event", "data"]
        item["properties"]["event"] = {"type": "string", "description": "Its `type`."}
    return {"content": {"text/event-stream": {"itemSchema": item}}}


def links(*operations: str, **parameters: str) -> dict[str, Any]:
    """Say which operations take what an answer holds; parameters by name, as JSON pointers into the answer."""
    filled = {name: f"$response.body#{pointer}" for name, pointer in parameters.items()}
    return {"links": {one: {"operationId": one, "parameters": filled} for one in operations}}


OF_ANSWER = ("get_interaction", "post_grade", "list_grades", "post_grading_token", "delete_interaction")
