"""From a finished choice to the rows that remember it, in the transaction after which its id may leave.

Leaves out the tables (`app.store`) and the byte form of a rollout (`training.codec`).
"""

from sqlalchemy.orm import Session

from app.api.ask import Ask
from app.engine.request import Finished
from app.store.checkpoints import by_version
from app.store.interactions import record
from app.store.tables import Interaction
from training.codec import CODEC_VERSION, encode


def remember(session: Session, ask: Ask, prompt: int, finished: Finished, *, shadow: bool = False) -> Interaction:
    """Write one choice with its rollout.

    Args:
        session: a transaction; commit it before the id leaves.
        ask: what was asked.
        prompt: which of its prompts.
        finished: the choice; an answer cut short by its client or its deadline is kept, and never learned from.
        shadow: whether it is a second answer that nobody saw.

    """
    rollout, fields = finished.rollout, ask.fields
    why_not = "shadow" if shadow else unlearnable(finished)
    group = ask.group_id(prompt)
    row = Interaction(
        completion_id=f"{group}.shadow" if shadow else group,
        shadow_of=group if shadow else None,
        choice=finished.choice,
        group_size=1 if shadow else fields.choices,
        endpoint=ask.endpoint,
        model=fields.model,
        checkpoint_id=by_version(session, rollout.policy_version).id,
        policy_version=rollout.policy_version,
        api_key_id=ask.key_id,
        request=ask.as_asked,
        prompt_text=ask.prompts[prompt].text,
        prompt_tokens=len(ask.prompts[prompt].ids),
        answer=finished.text,
        finish_reason=finished.reason,
        usage={
            "prompt_tokens": len(ask.prompts[prompt].ids),
            "completion_tokens": rollout.latent_length + rollout.answer_length,
            "reasoning_tokens": rollout.latent_length,
        },
        grader=fields.grader,
        grading_state="pending" if fields.grader is not None and finished.reason != "cancelled" else "none",
        user_tag=fields.user,
        client_metadata=fields.metadata,
        learnable=why_not is None,
        unlearnable_reason=why_not,
    )
    if shadow:
        record(session, row)
    else:
        record(session, row, codec=CODEC_VERSION, payload=encode(rollout))
    return row


def unlearnable(finished: Finished) -> str | None:
    """Say why an answer must not be learned from, or None."""
    if finished.reason in {"cancelled", "deadline"}:
        return finished.reason
    if finished.rollout.altered:
        return "altered"
    if len(finished.version_spans) != 1:
        return "mixed_versions"
    return None
