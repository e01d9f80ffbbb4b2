"""`/v1/models`: the one model this server serves, under the name clients use."""

from typing import Any

from fastapi import APIRouter, Depends
from starlette.responses import JSONResponse, Response

from app.api.door.auth import require
from app.api.http.fields import Text
from app.api.openai import shapes
from app.api.server import Server, ServerDep
from app.errors import NotFound

router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[Depends(require("infer"))])


@router.get("", response_model=shapes.Models)
async def list_models(server: ServerDep) -> Response:
    """List the models."""
    return JSONResponse({"object": "list", "data": [model_json(server)]})


@router.get("/{model:path}", response_model=shapes.Model)
async def get_model(model: Text, server: ServerDep) -> Response:
    """Read one model."""
    if model != server.settings.served_name:
        words = f"There is no model {model!r} here; this server serves {server.settings.served_name!r}."
        raise NotFound(words, param="model", code="model_not_found")
    return JSONResponse(model_json(server))


def model_json(server: Server) -> dict[str, Any]:
    """Write the model, with the version its new answers start on."""
    return {
        "id": server.settings.served_name,
        "object": "model",
        "created": server.started_at,
        "owned_by": "lepo",
        "root": server.settings.model,
        "max_model_len": server.engine.max_length,
        "policy_version": server.engine.version,
    }
