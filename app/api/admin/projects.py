"""Projects, for operators: make, list and limit them, and see what each uses.

An admin key of the service makes and limits projects; one of a project sees its own. Leaves out what a project is
(`app.store.projects`).
"""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from app.api.admin import shapes
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.fields import COUNTED, Strict, Text, example
from app.api.http.pages import NO_PLACE, After, Limit, behind, page
from app.api.http.shapes import links
from app.api.server import ServerDep
from app.errors import NotFound
from app.store import projects
from app.store.tenants import Project

router = APIRouter(prefix="/v1/admin/projects", tags=["admin"])

MayRule = Annotated[Caller, Depends(require("admin"))]
MayRuleOne = Annotated[Caller, Depends(require("admin", projects=True))]

Most = Annotated[int, Field(ge=0, lt=2**63), COUNTED]


class ProjectLimitsBody(Strict):
    """Limits to be changed: 0 is no bound, null what the settings say; what is left out stays."""

    model_config = example(stored_bytes=10_000_000_000)

    requests_per_minute: Most | None = None
    tokens_per_minute: Most | None = None
    stored_bytes: Most | None = Field(None, description="Most bytes of texts and rollouts kept.")
    grading_seconds: Annotated[float, Field(ge=0, le=1e9)] | None = Field(
        None, description="Most seconds a day (UTC) that graders run."
    )


class ProjectBody(ProjectLimitsBody):
    """A project to be made."""

    model_config = example(id="shop")

    id: Annotated[str, Field(pattern=f"^{projects.NAME.pattern}$")]


@router.post(
    "",
    response_model=shapes.Project,
    status_code=201,
    responses={201: links("get_project", "patch_project", project_id="/id"), 409: {"description": "It exists."}},
)
async def post_project(body: ProjectBody, request: Request, server: ServerDep, _caller: MayRule) -> Response:
    """Make a project; keys are made for it by naming it."""
    request.state.audit_target = body.id
    limits = body.model_dump(exclude={"id"})

    def make(session: Session) -> dict[str, Any]:
        return project_json(session, projects.create_project(session, body.id, **limits))

    return JSONResponse(await server.control.run(make), 201)


@router.get("", response_model=shapes.Projects, responses={404: NO_PLACE})
async def list_projects(server: ServerDep, caller: MayRuleOne, limit: Limit = 100, after: After = None) -> Response:
    """List the projects this key may see, by name, with what each uses."""

    def listing(session: Session) -> dict[str, Any]:
        found = behind(projects.list_projects(session, caller.project), after, lambda row: row.id)
        return page(found, limit, lambda row: project_json(session, row), lambda row: row.id)

    return JSONResponse(await server.control.run(listing))


@router.get("/{project_id}", response_model=shapes.Project)
async def get_project(project_id: Text, server: ServerDep, caller: MayRuleOne) -> Response:
    """Read one project."""
    if not caller.sees(project_id):
        raise NotFound(f"There is no project {project_id[:80]}; see: lepo projects list")
    return JSONResponse(
        await server.control.run(lambda session: project_json(session, projects.get_project(session, project_id)))
    )


@router.patch("/{project_id}", response_model=shapes.Project)
async def patch_project(project_id: Text, body: ProjectLimitsBody, server: ServerDep, _caller: MayRule) -> Response:
    """Change limits; here at once, on other replicas within seconds."""
    limits = body.model_dump(exclude_unset=True)

    def change(session: Session) -> dict[str, Any]:
        return project_json(session, projects.set_limits(session, project_id, limits))

    shown = await server.control.run(change)
    server.believed.forget()
    return JSONResponse(shown)


def project_json(session: Session, row: Project) -> dict[str, Any]:
    """Write a project with what it uses."""
    used = projects.used(session, row.id)
    return {
        "id": row.id,
        "object": "project",
        "limits": {name: getattr(row, name) for name in projects.LIMITS},
        "usage": {"stored_bytes": used.stored_bytes, "grading_seconds_today": round(used.grading_seconds, 3)},
        "created_at": row.created_at.isoformat(),
    }
