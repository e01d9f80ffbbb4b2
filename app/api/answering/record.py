"""From a finished choice to the rows that remember it, in the transaction after which its id may leave.

Every text passes the hook of LEPO_REDACT first. Token ids spell what was taken out, so an answer of which anything was
redacted keeps no rollout and is not learned from, unless LEPO_REDACT_KEEP_ROLLOUTS says so. Leaves out the tables
(`app.store`) and the byte form of a rollout (`training.codec`).
"""

from dataclasses import dataclass
from typing import Final

from sqlalchemy.orm import Session

from app.api.answering.ask import Ask
from app.api.answering.sessions import opening_of
from app.engine.request import Finished
from app.redaction.hook import Redactor
from app.store.base import Json
from app.store.checkpoints import by_version
from app.store.interactions import record
from app.store.sessions import join
from app.store.tables import Interaction
from training.codec import CODEC_VERSION, encode

REDACTED: Final = "redacted"
SHADOW: Final = "shadow"


@dataclass(frozen=True, slots=True)
class Texts:
    """What is stored of a request and its answer in words."""

    prompt: str
    answer: str
    request: Json
    grader: Json | None
    metadata: Json | None

    def through(self, redactor: Redactor) -> "Texts":
        """Redact all of it.

        Raises:
            Unavailable: it could not be redacted.

        """
        return Texts(
            redactor.text(self.prompt),
            redactor.text(self.answer),
            redactor.json(self.request),
            redactor.json(self.grader),
            redactor.json(self.metadata),
        )


def remember(
    session: Session,
    ask: Ask,
    prompt: int,
    finished: Finished,
    redactor: Redactor,
    *,
    keep_rollouts: bool,
    shadow: bool = False,
) -> Interaction:
    """Write one choice with its rollout.

    Args:
        session: a transaction; commit it before the id leaves.
        ask: what was asked.
        prompt: which of its prompts.
        finished: the choice; an answer cut short by its client or its deadline is kept, and never learned from.
        redactor: what every text passes.
        keep_rollouts: whether redacted answers keep theirs.
        shadow: whether it is a second answer that nobody saw.

    Raises:
        Unavailable: a text could not be redacted; nothing is written.

    """
    rollout, fields = finished.rollout, ask.fields
    asked = in_words(ask) if redactor.active else ask.as_asked
    given = Texts(ask.prompts[prompt].text, finished.text, asked, fields.grader, fields.metadata)
    stored = given.through(redactor)
    spells_more = stored != given and not keep_rollouts
    why_not = SHADOW if shadow else unlearnable(finished) or (REDACTED if spells_more else None)
    group = ask.group_id(prompt)
    session_id, turn = None, None
    if ask.session is not None and ask.key_id is not None and not shadow:
        opening = opening_of(rollout.asked_ids_P, (fields.metadata or {}).get("task", ""))
        session_id, turn = join(session, ask.key_id, ask.session, group, opening)
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
        request=stored.request,
        prompt_text=stored.prompt,
        prompt_tokens=len(ask.prompts[prompt].ids),
        answer=stored.answer,
        finish_reason=finished.reason,
        usage={
            "prompt_tokens": len(ask.prompts[prompt].ids),
            "completion_tokens": rollout.latent_length + rollout.answer_length,
            "reasoning_tokens": rollout.latent_length,
        },
        grader=stored.grader,
        grader_source=ask.grader_source,
        grading_state="pending" if fields.grader is not None and finished.reason != "cancelled" else "none",
        user_tag=fields.user,
        client_metadata=stored.metadata,
        learnable=why_not is None,
        unlearnable_reason=why_not,
        session_id=session_id,
        turn=turn,
        follows_id=ask.prompts[prompt].follows,
    )
    if shadow or spells_more:
        record(session, row)
    else:
        record(session, row, codec=CODEC_VERSION, payload=encode(rollout))
    return row


def in_words(ask: Ask) -> Json:
    """Write prompts that came as token ids as texts: what is redacted must be legible."""
    if "prompt_token_ids" in ask.as_asked:
        rest = {key: value for key, value in ask.as_asked.items() if key != "prompt_token_ids"}
        return {**rest, "prompt": [one.text for one in ask.prompts]}
    prompt = ask.as_asked.get("prompt")
    if not isinstance(prompt, list) or all(isinstance(one, str) for one in prompt):
        return ask.as_asked
    return {**ask.as_asked, "prompt": [one.text for one in ask.prompts]}


def unlearnable(finished: Finished) -> str | None:
    """Say why an answer must not be learned from, or None."""
    if finished.reason in {"cancelled", "deadline"}:
        return finished.reason
    if finished.rollout.altered:
        return "altered"
    if len(finished.version_spans) != 1:
        return "mixed_versions"
    return None
