"""Graders tried out: is this spec one, and what would it say of an answer? Nothing is stored.

Leaves out the graders (`training.graders`) and running them on stored answers (the worker).
"""

from functools import partial
from typing import Annotated, Any, Final

import anyio
import anyio.to_thread
from fastapi import APIRouter, Depends
from pydantic import Field

from app.api.answering.checks import check_grader
from app.api.door.auth import require
from app.api.http.fields import JsonObject, Strict, Text
from app.api.server import ServerDep
from app.errors import BadRequest
from training.graders.parse import parse_grader
from training.graders.verdict import Failed, Graded, Verdict

PLAINEST: Final = "0"  # an answer that costs nothing

router = APIRouter(prefix="/v1/graders", tags=["graders"], dependencies=[Depends(require("grade"))])


class ValidateBody(Strict):
    """A grader's spec."""

    grader: JsonObject


class RunBody(ValidateBody):
    """A grader's spec and an answer to try it on."""

    answer: Annotated[Text, Field(max_length=100_000)]


@router.post("/validate")
async def validate(body: ValidateBody, server: ServerDep) -> dict[str, Any]:
    """Check a spec; what is wrong with it comes as a 400 that names the field.

    It is tried on an answer too: whether a reference can be read, or a dataset is known, is only seen then.
    """
    check_grader(body.grader)
    grader = parse_grader(body.grader)
    work = partial(grader.grade, PLAINEST, server.settings.grader_timeout)
    verdict = await anyio.to_thread.run_sync(work, limiter=server.trials)
    if isinstance(verdict, Failed):
        raise BadRequest(f"{verdict.reason}.", param="grader", code="invalid_grader")
    return {"valid": True, "grader": {"kind": grader.kind, "id": grader.name, "version": grader.version}}


@router.post("/run")
async def run(body: RunBody, server: ServerDep) -> dict[str, Any]:
    """Run a grader on an answer and show its verdict."""
    check_grader(body.grader)
    work = partial(parse_grader(body.grader).grade, body.answer, server.settings.grader_timeout)
    return verdict_json(await anyio.to_thread.run_sync(work, limiter=server.trials))


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Write a verdict; its three states never look alike."""
    if isinstance(verdict, Graded):
        return {"state": "graded", "value": verdict.value, "detail": verdict.detail}
    state = "failed" if isinstance(verdict, Failed) else "no_grade"
    return {"state": state, "value": None, "detail": verdict.reason}
