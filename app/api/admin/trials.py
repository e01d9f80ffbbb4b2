"""Trials of policies on live traffic, for operators: how each stands, and beginning one by hand.

They end by themselves (`worker.trial`), by a promotion, by a discard, and by a rollback. Leaves out what grades show
(`app.trials`) and who is served (`app.api.answering.trial_routing`).
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import Field
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from app.api.admin import policy_shapes as shapes
from app.api.admin.moves import Moved, moved, resolve
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.fields import Strict, Text, example
from app.api.http.once import REPEATABLE
from app.api.http.pages import NO_PLACE, After, Limit, behind, page
from app.api.server import ServerDep
from app.identifiers import show
from app.settings import Settings
from app.store import policy_life
from app.trials import figures, under_way, verdict

router = APIRouter(prefix="/v1/admin", tags=["admin"])

MayRule = Annotated[Caller, Depends(require("admin"))]


class TrialBody(Strict):
    """Which trial a policy is to have, and why."""

    model_config = example(stage="canary")

    stage: Literal["shadow", "canary"]
    reason: Annotated[Text, Field(min_length=1, max_length=500)] = "put on trial by an operator"


@router.get("/trials", response_model=shapes.Trials, responses={404: NO_PLACE})
async def get_trials(server: ServerDep, _caller: MayRule, limit: Limit = 100, after: After = None) -> Response:
    """List the trials that are under way, with what the grades show by now."""
    found = await server.control.run(lambda session: trials_json(session, server.settings))
    rest = behind(found, after, lambda one: str(one["checkpoint_id"]))
    return JSONResponse(page(rest, limit, dict, lambda one: str(one["checkpoint_id"])))


@router.post("/checkpoints/{checkpoint_id}/trial", response_model=shapes.PolicyMoved, dependencies=[REPEATABLE])
async def begin_trial(
    checkpoint_id: Text, request: Request, server: ServerDep, caller: MayRule, body: TrialBody
) -> Response:
    """Put a policy that waits for a decision into shadow or canary."""

    def move(session: Session) -> Moved:
        return policy_life.try_out(session, resolve(session, checkpoint_id), body.stage, body.reason, caller.key_id)

    return await moved(server, request, caller, move)


def trials_json(session: Session, settings: Settings) -> list[dict[str, Any]]:
    """Write every trial that is under way; `verdict` is what happens next, null while it goes on."""
    shown = []
    for trial, found in under_way(session, settings):
        decided = verdict(trial, found, settings)
        shown.append(
            {
                "object": "trial",
                "stage": trial.kind,
                "checkpoint_id": show("ckpt", trial.checkpoint_id),
                "version": trial.version,
                "began_at": trial.began_at.isoformat(),
                "figures": figures(trial, found, settings),
                "verdict": None if decided is None else {"step": decided.step, "words": decided.words},
            }
        )
    return shown
