"""Answers read back: a listing, one of them, and for admins the trace that training sees.

A key reads its own answers, an admin key those of its project, one of the service all. Leaves out
grading (`app.api.grading.grades`).
"""

from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends
from sqlalchemy.orm import Session
from starlette.responses import JSONResponse, Response

from app.api.console import shapes
from app.api.door.answer_ids import UNFINISHED, find
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.http.fields import Text
from app.api.http.filters import Place, Wanted
from app.api.http.pages import Limit
from app.api.http.paths import Choice
from app.api.http.shapes import OF_ANSWER, links
from app.api.server import ServerDep
from app.errors import Forbidden
from app.identifiers import show
from app.store.checkpoints import get_checkpoint
from app.store.grades import Reward, rewards
from app.store.interactions import fate, list_interactions, rollout
from app.store.tables import Checkpoint, Claim, Interaction
from training.codec import decode
from training.rollout import Rollout

router = APIRouter(tags=["interactions"])

MayInfer = Annotated[Caller, Depends(require("infer"))]


@router.get(
    "/v1/interactions",
    response_model=shapes.Interactions,
    responses={200: links(*OF_ANSWER, interaction_id="/data/0/id")},
)
async def get_interactions(
    server: ServerDep,
    caller: MayInfer,
    wanted: Wanted,
    after: Place,
    limit: Limit = 50,
    shadow: bool = False,
) -> Response:
    """List answers, the newest first.

    `shadow` shows those that nobody saw, which a policy on trial gave to live prompts.
    """
    whose = wanted.api_key_id if caller.may("admin") else caller.key_id
    filters = replace(wanted, api_key_id=whose, project_id=caller.project, shadow=shadow)

    def listing(session: Session) -> dict[str, Any]:
        page = list_interactions(session, filters, limit=limit, after=after)
        return {
            "object": "list",
            "data": [interaction_json(row, reward) for row, reward in page.items],
            "has_more": page.next_after is not None,
            "next_after": None if page.next_after is None else show("int", page.next_after),
        }

    return JSONResponse(await server.traffic.run(listing))


@router.get("/v1/interactions/{interaction_id}", response_model=shapes.InteractionRead, responses={409: UNFINISHED})
async def get_interaction(
    interaction_id: Text,
    server: ServerDep,
    caller: MayInfer,
    choice: Choice = None,
    include: Literal["rollout"] | None = None,
) -> Response:
    """Read one answer; `include=rollout` adds its trace, for admin keys."""
    if include is not None and not caller.may("admin"):
        raise Forbidden("The trace of an answer needs an admin key.", param="include")

    def one(session: Session) -> dict[str, Any]:
        row = find(session, interaction_id, choice, server.underway, caller)
        shown = interaction_json(row, rewards(session, [row.id]).get(row.id))
        policy = get_checkpoint(session, row.checkpoint_id)
        shown["policy"] = {"id": show("ckpt", policy.id), "version": policy.version, "state": policy.state}
        shown["learning"] = fate_json(fate(session, row.id))
        if include is not None:
            stored = rollout(session, row.id)
            shown["rollout"] = None if stored is None else rollout_json(decode(stored.payload))
        return shown

    return JSONResponse(await server.traffic.run(one))


def interaction_json(row: Interaction, reward: Reward | None) -> dict[str, Any]:
    """Write an answer and what was asked for it."""
    return {
        "id": show("int", row.id),
        "object": "interaction",
        "created_at": row.created_at.isoformat(),
        "completion_id": row.completion_id,
        "choice": row.choice,
        "group_size": row.group_size,
        "endpoint": row.endpoint,
        "model": row.model,
        "checkpoint_id": show("ckpt", row.checkpoint_id),
        "policy_version": row.policy_version,
        "key": row.api_key_id,
        "project": row.project_id,
        "request": row.request,
        "prompt_text": row.prompt_text,
        "answer": row.answer,
        "finish_reason": row.finish_reason,
        "usage": row.usage,
        "grader": row.grader,
        "grading_state": row.grading_state,
        "user": row.user_tag,
        "metadata": row.client_metadata,
        "learnable": row.learnable,
        "unlearnable_reason": row.unlearnable_reason,
        "claimed": row.claimed,
        "shadow_of": row.shadow_of,
        "session_id": None if row.session_id is None else show("sess", row.session_id),
        "turn": row.turn,
        "reward": None if reward is None else {"value": reward.value, "graders": reward.graders},
    }


def fate_json(found: tuple[Claim, Checkpoint | None] | None) -> dict[str, Any] | None:
    """Write what became of an answer in learning; None while nothing did."""
    if found is None:
        return None
    claim, made = found
    return {
        "outcome": claim.outcome,
        "reason": claim.reason,
        "divergence": claim.divergence,
        "weight": claim.weight,
        "job_id": show("job", claim.job_id),
        "policy": None if made is None else {"version": made.version, "state": made.state},
    }


def rollout_json(trace: Rollout) -> dict[str, Any]:
    """Write a trace as lists; a latent step shows the candidates of its support."""
    latents = []
    for ids_K, weights_K, logprobs_K in zip(
        trace.latent_ids_LK, trace.latent_weights_LK, trace.latent_logprobs_LK, strict=True
    ):
        inside_K = logprobs_K.isfinite()
        latents.append(
            {
                "ids": ids_K[inside_K].tolist(),
                "weights": weights_K[inside_K].tolist(),
                "logprobs": logprobs_K[inside_K].tolist(),
            }
        )
    sampling = trace.sampling
    return {
        "policy_version": trace.policy_version,
        "stop_reason": trace.stop_reason,
        "sampling": {name: getattr(sampling, name) for name in type(sampling).__dataclass_fields__},
        "prompt_ids": trace.prompt_ids_P.tolist(),
        "placement": {
            "name": trace.placement,
            "lead_in_ids": trace.placed.lead_in_ids,
            "lead_out_ids": trace.placed.lead_out_ids,
        },
        "latents": latents,
        "latent_log_mass": trace.latent_log_mass_L.tolist(),
        "token_ids": trace.token_ids_T.tolist(),
        "token_logprobs": trace.token_logprobs_T.tolist(),
        "token_log_mass": trace.token_log_mass_T.tolist(),
    }
