"""OpenTelemetry's words for what a language model was asked and answered (GenAI conventions, in development).

What they have no word for is ours, under `lepo.`. Leaves out spans and events themselves (`app.telemetry.tracing`).
"""

from collections.abc import Sequence
from typing import Any, Final

from app.telemetry.told import AnswerTold, ChoiceTold, GradeTold

PROVIDER: Final = "lepo"
LONGEST_EXPLANATION: Final = 500  # characters


def phases(one: ChoiceTold) -> Sequence[tuple[str, float]]:
    """Name the phases of a choice, each with its end; one that never came is left out."""
    ends = [("queue", one.prefill_at)]
    if one.first_step_at is not None:
        ends.append(("prefill", one.first_step_at))
        if one.latents:
            ends.append(("latent", one.ended_at if one.latents_over_at is None else one.latents_over_at))
        if one.tokens:
            ends.append(("decode", one.ended_at))
    return [*ends, ("commit", one.committed_at)]


def request_attributes(told: AnswerTold) -> dict[str, Any]:
    """Write what was asked, in GenAI's words."""
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": told.operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": told.model,
        "gen_ai.request.temperature": told.temperature,
        "gen_ai.request.top_p": told.top_p,
        "gen_ai.request.top_k": told.top_k,
        "gen_ai.request.max_tokens": told.max_tokens,
        "gen_ai.response.id": told.response_id,
    }
    if told.n > 1:
        attributes["gen_ai.request.choice.count"] = told.n
    if told.conversation_id is not None:
        attributes["gen_ai.conversation.id"] = told.conversation_id
    return attributes


def response_attributes(told: AnswerTold) -> dict[str, Any]:
    """Write what was answered, in GenAI's words; latent steps are reasoning, and part of the output."""
    return {
        "gen_ai.response.model": f"{told.model}@{told.choices[0].policy_version}",
        "gen_ai.response.finish_reasons": [one.finish_reason for one in told.choices],
        "gen_ai.usage.input_tokens": told.input_tokens,
        "gen_ai.usage.output_tokens": sum(one.latents + one.tokens for one in told.choices),
        "lepo.latent_steps": sum(one.latents for one in told.choices),
        "lepo.policy_version": told.choices[0].policy_version,
        "lepo.interaction_ids": [one.interaction_id for one in told.choices],
    }


def grade_attributes(told: GradeTold) -> dict[str, Any]:
    """Write a grade as an evaluation's result."""
    attributes: dict[str, Any] = {
        "gen_ai.evaluation.name": told.name,
        "gen_ai.evaluation.score.label": told.label,
        "gen_ai.response.id": told.response_id,
        "lepo.interaction_id": told.interaction_id,
    }
    if told.value is not None:
        attributes["gen_ai.evaluation.score.value"] = told.value
    if told.explanation:
        attributes["gen_ai.evaluation.explanation"] = told.explanation[:LONGEST_EXPLANATION]
    if told.label == "failed":
        attributes["error.type"] = "grader_failed"
    return attributes
