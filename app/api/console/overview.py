"""`GET /v1/admin/overview`: the whole service at a glance, as one JSON object (`app.store.overview`)."""

from dataclasses import asdict

from fastapi import APIRouter, Depends
from fastapi.encoders import jsonable_encoder
from starlette.responses import JSONResponse, Response

from app.api.console import shapes
from app.api.door.auth import require
from app.api.server import ServerDep
from app.store.overview import overview

router = APIRouter(prefix="/v1/admin", tags=["admin"], dependencies=[Depends(require("admin"))])


@router.get("/overview", response_model=shapes.Overview)
async def get_overview(server: ServerDep) -> Response:
    """Read what is served, graded and learned, and whether it is getting better."""
    return JSONResponse(jsonable_encoder(asdict(await server.control.run(overview))))
