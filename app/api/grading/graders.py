"""Graders tried out: is this spec one, and what would it say of an answer? Nothing is stored.

Leaves out the graders (`training.graders`) and running them on stored answers (the worker).
"""

import time
from typing import Annotated, Any, Final

import anyio
import anyio.to_thread
from fastapi import APIRouter, Depends
from pydantic import Field
from starlette.responses import JSONResponse, Response

from app.api.answering.checks import check_grader
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.grading import shapes
from app.api.http.fields import JsonObject, Strict, Text, example
from app.api.server import Server, ServerDep
from app.errors import BadRequest
from app.store.projects import spend_grading
from training.graders.grader import Grader
from training.graders.parse import parse_grader
from training.graders.verdict import Failed, Graded, Verdict

PLAINEST: Final = "0"  # an answer that costs nothing

router = APIRouter(prefix="/v1/graders", tags=["graders"])

MayGrade = Annotated[Caller, Depends(require("grade"))]


class ValidateBody(Strict):
    """A grader's spec."""

    model_config = example(grader={"type": "math", "reference": "54"})

    grader: JsonObject


class RunBody(ValidateBody):
    """A grader's spec and an answer to try it on."""

    model_config = example(grader={"type": "math", "reference": "54"}, answer="It is 54.")

    answer: Annotated[Text, Field(max_length=100_000)]


@router.post("/validate", response_model=shapes.GraderValid)
async def validate_grader(body: ValidateBody, server: ServerDep, caller: MayGrade) -> Response:
    """Check a spec; what is wrong with it comes as a 400 that names the field.

    It is tried on an answer too: whether a reference can be read, or a dataset is known, is only seen then.
    """
    check_grader(body.grader)
    grader = parse_grader(body.grader)
    verdict = await tried(server, caller, grader, PLAINEST)
    if isinstance(verdict, Failed):
        raise BadRequest(f"{verdict.reason}.", param="grader", code="invalid_grader")
    named = {"kind": grader.kind, "id": grader.name, "version": grader.version}
    return JSONResponse({"valid": True, "grader": named})


@router.post("/run", response_model=shapes.Verdict)
async def run_grader(body: RunBody, server: ServerDep, caller: MayGrade) -> Response:
    """Run a grader on an answer and show its verdict."""
    check_grader(body.grader)
    return JSONResponse(verdict_json(await tried(server, caller, parse_grader(body.grader), body.answer)))


async def tried(server: Server, caller: Caller, grader: Grader, answer: str) -> Verdict:
    """Run a grader beside the event loop, on the time of the caller's project.

    Raises:
        TooMany: the project has none left today.

    """
    caller.require_grading_time()

    def timed() -> tuple[Verdict, float]:
        began = time.monotonic()
        return grader.grade(answer, server.settings.grader_timeout), time.monotonic() - began

    verdict, took = await anyio.to_thread.run_sync(timed, limiter=server.trials)
    if caller.bounds.grading_seconds:
        await server.traffic.run(lambda session: spend_grading(session, caller.home, took))
    return verdict


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Write a verdict; its three states never look alike."""
    if isinstance(verdict, Graded):
        return {"state": "graded", "value": verdict.value, "detail": verdict.detail}
    state = "failed" if isinstance(verdict, Failed) else "no_grade"
    return {"state": state, "value": None, "detail": verdict.reason}
