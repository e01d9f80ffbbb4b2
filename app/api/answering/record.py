"""From a finished choice to the rows that remember it, in the transaction after which its id may leave.

What was asked is a row of its own, written with the first answer that is committed and named by all of them.

Every text passes the hook of LEPO_REDACT first. Token ids spell what was taken out, so an answer of which anything was
redacted keeps no rollout and is not learned from, unless LEPO_REDACT_KEEP_ROLLOUTS says so. Leaves out the tables
(`app.store`) and the byte form of a rollout (`training.codec`).
"""

from functools import cached_property
from typing import Final

from sqlalchemy.orm import Session

from app.api.answering.ask import Ask
from app.api.answering.sessions import opening_of
from app.engine.request import Finished
from app.redaction.hook import Redactor
from app.settings import Settings
from app.store.base import Json
from app.store.checkpoints import by_version
from app.store.interactions import record
from app.store.requests import Asked, keep
from app.store.sessions import join
from app.store.tables import Interaction
from app.store.traces import open_traces
from training.codec import CODEC_VERSION, encode

REDACTED: Final = "redacted"
SHADOW: Final = "shadow"


class Recorder:
    """Writes the answers to one request; what they share is redacted and stored once."""

    def __init__(self, ask: Ask, redactor: Redactor, settings: Settings) -> None:
        self.ask = ask
        self._redactor = redactor
        self._keep_rollouts = settings.redact_keep_rollouts
        self._files = open_traces(settings.traces)

    @cached_property
    def _asked(self) -> Asked:
        """What is stored of the request.

        Raises:
            Unavailable: a text could not be redacted.

        """
        given, redactor = self._given, self._redactor
        if not redactor.active:
            return given
        return Asked(
            redactor.json(given.body),
            tuple(redactor.text(prompt) for prompt in given.prompts),
            redactor.json(given.grader),
            redactor.json(given.metadata),
        )

    @cached_property
    def _given(self) -> Asked:
        """The request as it came."""
        ask = self.ask
        body = in_words(ask) if self._redactor.active else ask.as_asked
        return Asked(body, tuple(prompt.text for prompt in ask.prompts), ask.fields.grader, ask.fields.metadata)

    def remember(self, session: Session, prompt: int, finished: Finished, *, shadow: bool = False) -> Interaction:
        """Write one choice with its rollout, and with the first of them the request.

        Args:
            session: a transaction; commit it before the id leaves.
            prompt: which of the request's prompts.
            finished: the choice; one cut short by its client or its deadline is kept, and never learned from.
            shadow: whether it is a second answer that nobody saw.

        Raises:
            Unavailable: a text could not be redacted; nothing is written.

        """
        ask, rollout, fields = self.ask, finished.rollout, self.ask.fields
        text = self._redactor.text(finished.text)
        redacted = self._redactor.active and (text != finished.text or self._asked != self._given)
        spells_more = redacted and not self._keep_rollouts
        why_not = SHADOW if shadow else unlearnable(finished) or (REDACTED if spells_more else None)
        group = ask.group_id(prompt)
        session_id, turn = None, None
        if ask.session is not None and ask.key_id is not None and not shadow:
            opening = opening_of(rollout.asked_ids_P, (fields.metadata or {}).get("task", ""))
            session_id, turn = join(session, ask.key_id, ask.session, group, opening)
        keep(session, ask.request_id, lambda: self._asked, ask.key_id)
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
            request_id=ask.request_id,
            prompt_index=prompt,
            prompt_tokens=len(ask.prompts[prompt].ids),
            answer=text,
            finish_reason=finished.reason,
            usage={
                "prompt_tokens": len(ask.prompts[prompt].ids),
                "completion_tokens": rollout.latent_length + rollout.answer_length,
                "reasoning_tokens": rollout.latent_length,
            },
            grader_source=ask.grader_source,
            grading_state="pending" if fields.grader is not None and finished.reason != "cancelled" else "none",
            user_tag=fields.user,
            learnable=why_not is None,
            unlearnable_reason=why_not,
            session_id=session_id,
            turn=turn,
            follows_id=ask.prompts[prompt].follows,
        )
        if shadow or spells_more:
            record(session, row)
        else:
            record(session, row, codec=CODEC_VERSION, payload=encode(rollout), files=self._files)
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
