"""One choice of a request on the host: what was drawn so far, its text, and why it ends.

The device only draws; here a step's numbers become events, and the end is decided. Endings are looked for at answer
tokens alone: a latent step has no token, so it can neither stop an answer nor appear in its text.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.engine.grammar import Grammar, Guide
from app.engine.request import Delta, Event, Finished, FinishReason, Reasoned, Request, TokenInfo
from app.engine.rows import Trace
from app.engine.text import CONTEXT, Decode, Detokenizer, Pieces, StopScanner
from training.noise import choice_seed
from training.rollout import Rollout, no_masks, nothing
from training.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Reader:
    """What reads the drawn ids: one per engine."""

    decode: Decode  # ids to text, without special tokens
    pieces: Pieces | None  # texts of single ids, where they are enough
    eos_ids: frozenset[int]  # ids that end an answer


class Answer:
    """One choice, from its first step to its `Finished`."""

    def __init__(
        self, request: Request, choice: int, reader: Reader, grammar: Grammar | None = None, *, telling: bool
    ) -> None:
        self.request = request
        self.choice = choice
        self.sampling: Sampling = dataclasses.replace(request.sampling, seed=choice_seed(request.sampling.seed, choice))
        self._latent_length = self.sampling.latent_length
        self._lead_out_ids = request.lead_out_ids
        self._before_tokens = self._latent_length + len(self._lead_out_ids)  # steps before the first token's
        self.endings = frozenset(request.stop_ids) | (frozenset() if request.ignore_eos else reader.eos_ids)
        self.steps = 0  # steps executed, those of latents and of the lead-out included
        self.spans: list[tuple[int, int]] = []  # (policy version, first step)
        self.finished = False
        self.began_at: float | None = None  # when it got a row, monotonic seconds
        self.latents_over_at: float | None = None  # likewise
        self.first_token_at: float | None = None  # likewise
        self.base = len(request.executed_ids) - 1  # position of its first step
        self._telling = telling  # whether anyone reads the deltas
        self._decode = reader.decode
        before = request.prompt_ids[-CONTEXT:] if request.goes_on else ()
        self._detokenizer = Detokenizer(reader.decode, reader.pieces, request.marks, before)
        self._scanner = StopScanner(request.stop) if request.stop else None
        self._reads = telling or bool(request.stop) or bool(request.marks) or request.goes_on
        self._grammar = grammar
        self._guide: Guide | None = None  # made by the first step: copying a grammar is the engine's work
        self._penalised = request.penalties.any
        self._follows = self._penalised or grammar is not None
        self._said: Counter[int] = Counter()  # the answer's tokens, where they are penalised
        self._drawn: list[Sequence[float]] = []  # by step: token id, its log-probability, log of the mass kept
        self._pieces: list[str] = []
        self._ended_by_id = False
        self._ended_by_text = False

    @property
    def latents(self) -> int:
        """Latent steps executed."""
        return min(self.steps, self._latent_length)

    @property
    def answer_tokens(self) -> int:
        """Answer tokens drawn, the ending one included."""
        return max(0, self.steps - self._before_tokens)

    @property
    def in_latents(self) -> bool:
        """Whether the next step is a latent one."""
        return self.steps < self._latent_length

    @property
    def in_tokens(self) -> bool:
        """Whether the next step draws an answer token."""
        return self.steps >= self._before_tokens

    @property
    def given_id(self) -> int | None:
        """Id that the next step reads whatever the last one drew: of the lead-out; None beyond it."""
        place = self.steps - self._latent_length - 1
        return self._lead_out_ids[place] if 0 <= place < len(self._lead_out_ids) else None

    @property
    def read_ids(self) -> list[int]:
        """Ids that were read behind the latent steps: the lead-out's, then the tokens."""
        drawn = self._ids(self._latent_length, self.steps)
        return [*self._lead_out_ids[: len(drawn)], *drawn[len(self._lead_out_ids) :]]

    @property
    def forbids_endings(self) -> bool:
        """Whether the next step must not end the answer."""
        return self.in_tokens and self.answer_tokens < self.request.min_tokens and bool(self.endings)

    @property
    def constrained(self) -> bool:
        """Whether its text must satisfy a constraint."""
        return self._grammar is not None

    @property
    def masked(self) -> bool:
        """Whether the next step draws what its constraint allows: a token, or a latent step in the answer's place."""
        return self.constrained and (self.in_tokens or (self.in_latents and self.request.placement.name == "answer"))

    @property
    def mask(self) -> bytes | None:
        """What the next step may draw, see `app.engine.grammar`; None: anything."""
        return self._guided().mask if self.masked else None

    @property
    def bent(self) -> bool:
        """Whether the request changes the logits of the next step, by more than a constraint."""
        return bool(self.request.logit_bias) or self.forbids_endings or self._penalised

    @property
    def phase_left(self) -> int:
        """Steps until the answer asks something else of a step: latents, lead-out and `min_tokens` end one by one."""
        if self.in_latents:
            return self._latent_length - self.steps
        if not self.in_tokens:
            return self._before_tokens - self.steps
        if self._penalised:
            return 1
        short = self.request.min_tokens - self.answer_tokens
        return short if short > 0 else self.request.max_new

    def bias(self) -> dict[int, float]:
        """Collect what the next step adds to this row's logits."""
        added, penalties = dict(self.request.logit_bias), self.request.penalties
        for token, times in self._said.items():
            added[token] = added.get(token, 0.0) - penalties.presence - times * penalties.frequency
        if self.forbids_endings:
            added |= dict.fromkeys(self.endings, float("-inf"))
        return added

    def repeated(self) -> dict[int, float]:
        """Collect what the next step divides this row's logits by: of tokens that were read or said before."""
        factor = self.request.penalties.repetition
        said = {*self.request.executed_ids, *self._said} if factor != 1.0 else ()
        return dict.fromkeys(said, factor)

    def take(
        self, drawn: Sequence[float], top: tuple[tuple[int, float], ...], now: float, events: list[Event]
    ) -> FinishReason | None:
        """Take one step's numbers; add what happened to `events`; say whether the answer is over.

        Args:
            drawn: token id, its log-probability, log of the mass that the filter kept.
            top: likeliest tokens, those asked for.
            now: monotonic seconds.
            events: of the step under way.

        """
        self._drawn.append(drawn)
        self._follow(int(drawn[0]))
        self.steps += 1
        if self.steps <= self._latent_length:
            self._think(now, events)
            return None
        if self.steps <= self._before_tokens:
            return None
        if self.first_token_at is None:
            self.first_token_at = now
        token = int(drawn[0])
        if token in self.endings:
            self._ended_by_id = True
            self._tell("", (TokenInfo(token, drawn[1], top),), events)
            return "stop"
        if self._reads:
            piece = self._detokenizer.push(token)
            if self._scanner is not None and self.answer_tokens > self.request.min_tokens:
                piece, self._ended_by_text = self._scanner.push(piece)
            self._tell(piece, (TokenInfo(token, drawn[1], top),), events)
            if self._ended_by_text:
                return "stop"
        if self._guide is not None and (self._guide.failed or self._guide.over):
            return "deadline" if self._guide.failed else "stop"
        return "length" if self.latents + self.answer_tokens >= self.request.max_new else None

    def _guided(self) -> Guide:
        assert self._grammar is not None
        self._guide = self._guide or self._grammar.guide()
        return self._guide

    def _follow(self, token: int) -> None:
        """Let the constraint and the penalties know what the step under way drew."""
        if not self._follows:
            return
        if self.in_tokens and self._penalised:
            self._said[token] += 1
        if not self.constrained or not (self.in_latents or self.in_tokens):
            return
        guide = self._guided()
        if not self.masked:
            guide.pass_by()
        elif self.in_latents or token in self.endings:
            guide.stay()
        else:
            guide.take(token)

    def _think(self, now: float, events: list[Event]) -> None:
        """Take note of a latent step; behind the last one its reading is told."""
        if self.steps < self._latent_length:
            return
        self.latents_over_at = now
        if self._telling:
            reading = self._ids(0, self.steps)
            events.append(Reasoned(self.choice, tuple(reading), self._decode(reading)))

    def finish(
        self,
        reason: FinishReason,
        trace: Trace,
        prompt_P: Tensor,
        times: tuple[float, float | None, float | None, float | None],
        events: list[Event],
    ) -> None:
        """Close the answer: give out held text and the rollout.

        Args:
            reason: why it ends.
            trace: its latent steps, from the device.
            prompt_P: int32 [P], with the lead-in.
            times: seconds from submission to the first prefill, and to the first answer token, the first step and the
                end of the latent steps (None: there was none).
            events: gets a last `Delta` if text was held, then `Finished`.

        """
        if self._reads:
            if not self._ended_by_text:
                self._tell(self._rest(), (), events)
            text = "".join(self._pieces)
        else:
            text = self._decode(self._ids(self._before_tokens, self.steps - self._ended_by_id))
        self.finished = True
        rollout = self._rollout(reason, trace, prompt_P)
        events.append(Finished(self.choice, text, reason, rollout, tuple(self.spans), *times))

    def _ids(self, start: int, stop: int) -> list[int]:
        """Ids that some steps drew."""
        return [int(drawn[0]) for drawn in self._drawn[start:stop]]

    def _rest(self) -> str:
        """Text that was held back at the end; a stop string may be completed by an incomplete character."""
        if self._scanner is None:
            return self._detokenizer.flush()
        piece, stopped = self._scanner.push(self._detokenizer.flush())
        return piece if stopped else piece + self._scanner.flush()

    def _tell(self, text: str, tokens: tuple[TokenInfo, ...], events: list[Event]) -> None:
        if text:
            self._pieces.append(text)
        if self._telling and (text or tokens):
            events.append(Delta(self.choice, text, tokens))

    def _rollout(self, reason: FinishReason, trace: Trace, prompt_P: Tensor) -> Rollout:
        ids_S, logprobs_S, masses_S = torch.tensor(self._drawn, dtype=torch.float64).view(-1, 3).unbind(1)
        masks_MQ, mask_S = (no_masks(), nothing()) if self._guide is None else self._guide.record()
        return Rollout(
            prompt_ids_P=prompt_P,
            latent_ids_LK=trace.ids_LK,
            latent_weights_LK=trace.weights_LK,
            latent_logprobs_LK=trace.logprobs_LK,
            latent_log_mass_L=masses_S[: self.latents].float(),
            token_ids_T=ids_S[self._before_tokens :].int(),
            token_logprobs_T=logprobs_S[self._before_tokens :].float(),
            token_log_mass_T=masses_S[self._before_tokens :].float(),
            sampling=self.sampling,
            policy_version=self.spans[0][0],
            stop_reason=reason,
            altered=bool(self.request.logit_bias) or self.request.min_tokens > 0 or self.request.penalties.any,
            placement=self.request.placement.name if self._latent_length else "answer",
            lead_in=len(self.request.lead_in_ids),
            lead_out_ids_O=torch.tensor(self._lead_out_ids[: self.steps - self.latents], dtype=torch.int32),
            masks_MQ=masks_MQ,
            mask_S=mask_S,
        )


def answers_of(request: Request, reader: Reader, grammar: Grammar | None, *, telling: bool) -> Sequence[Answer]:
    """All choices of a request; `grammar` is its constraint's."""
    return [Answer(request, choice, reader, grammar, telling=telling) for choice in range(request.choices)]
