"""What is told of a request's answers once they are over: to metrics, the request's line in the log, and a collector.

Leaves out when (`app.api.answering.answers`) and how (`app.telemetry`).
"""

from collections.abc import Sequence
from typing import Final

from app.api.answering.ask import Ask
from app.api.server import Server
from app.engine.request import Finished
from app.errors import LepoError
from app.telemetry.log import note
from app.telemetry.told import AnswerTold, ChoiceTold

OPERATIONS: Final = {"chat": "chat", "response": "chat", "completion": "text_completion"}  # in GenAI's words
SESSION: Final = "session/"  # what the unit of a request with a session begins with


def choices_told(
    ask: Ask, prompt: int, pairs: Sequence[tuple[Finished, str | None]], began_at: float, times: tuple[float, float]
) -> list[ChoiceTold]:
    """Write down choices of one prompt that are over.

    Args:
        ask: what was asked.
        prompt: which of its prompts.
        pairs: each choice with its id; None where it is not recorded.
        began_at: when they were submitted, monotonic seconds.
        times: when their end was heard, and when they were committed, likewise.

    """

    def moment(seconds: float | None) -> float | None:
        return None if seconds is None else began_at + seconds

    return [
        ChoiceTold(
            choice=prompt * ask.fields.choices + finished.choice,
            interaction_id=interaction_id,
            policy_version=finished.rollout.policy_version,
            finish_reason=finished.reason,
            latents=finished.rollout.latent_length,
            tokens=finished.rollout.answer_length,
            prefill_at=began_at + finished.queued_s,
            first_step_at=moment(finished.first_step_s),
            first_token_at=moment(finished.first_token_s),
            latents_over_at=moment(finished.latents_over_s),
            ended_at=times[0],
            committed_at=times[1],
        )
        for finished, interaction_id in pairs
    ]


def tell(server: Server, ask: Ask, began_at: float, choices: Sequence[ChoiceTold], failure: LepoError | None) -> None:
    """Tell of a request whose every choice is over."""
    session = ask.unit.removeprefix(SESSION) if ask.unit.startswith(SESSION) else None
    ids = [one.interaction_id for one in choices if one.interaction_id is not None]
    note(completion_id=ask.completion_id, interaction_ids=ids, **({} if session is None else {"session_id": session}))
    if choices:
        note(policy_version=choices[0].policy_version)
        longest = max(one.latents + one.tokens for one in choices)
        server.metrics.completed(ask.fields.choices, ask.budget.max_new, longest)
    sampling = ask.budget.sampling
    server.telemetry.answered(
        AnswerTold(
            operation=OPERATIONS[ask.endpoint],
            model=ask.fields.model,
            response_id=ask.completion_id,
            conversation_id=session,
            asked_at=began_at,
            input_tokens=ask.prompt_tokens,
            n=ask.fields.choices,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=ask.budget.max_new,
            choices=choices,
            error=None if failure is None else failure.code,
        )
    )
