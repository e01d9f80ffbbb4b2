"""What the coming steps of a batch have in common, worked out once until a row comes, goes, or enters its next phase.

Between two such moments all that changes is that every row stands one position further, so a step asks each answer
nothing. Leaves out the step itself (`app.engine.rows`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from app.engine.answer import Answer
from app.engine.bias import Bias

_WIDTH_STEP = 32  # candidates are drawn in multiples of this


@dataclass(slots=True)
class Plan:
    """The rows in use and what their next steps need."""

    needed: int  # positions that the furthest row sees at the next step
    left: int  # steps for which the plan holds
    width: int  # K, candidates drawn from
    latents: int  # rows at latent steps
    tokens: int  # rows that draw answer tokens; the others are at a lead-out
    draws: int  # samples made for their mixtures, a power of two, enough for each of them; 0: none is at one
    top_logprobs: int  # likeliest tokens reported, the most that any row asked for
    bias: Bias | None  # what rows do to their logits
    masked: bool  # whether a row's constraint says which tokens it may draw

    def advance(self) -> bool:
        """Go on by one step; False when the plan is over."""
        self.needed += 1
        self.left -= 1
        return self.left > 0


def plan_for(answers: Sequence[Answer], most: int, columns: int, device: torch.device) -> Plan:
    """Plan the next steps of answers, one per row.

    Args:
        answers: at least one.
        most: candidates kept at most.
        columns: V, of the logits.
        device: of the logits.

    """
    top_k = max(answer.sampling.top_k for answer in answers)
    bias = None
    if any(answer.bent for answer in answers):
        bias = Bias([one.bias() for one in answers], columns, device, [one.repeated() for one in answers])
    return Plan(
        needed=max(answer.base + answer.steps for answer in answers) + 1,
        left=min(answer.phase_left for answer in answers),
        width=min(-(-top_k // _WIDTH_STEP) * _WIDTH_STEP, most),
        latents=sum(answer.in_latents for answer in answers),
        tokens=sum(answer.in_tokens for answer in answers),
        draws=_power_of_two(max((answer.sampling.draws for answer in answers if answer.in_latents), default=0)),
        top_logprobs=max(answer.request.top_logprobs for answer in answers),
        bias=bias,
        masked=any(answer.masked for answer in answers),
    )


def _power_of_two(draws: int) -> int:
    """Round up: a step has few shapes, however many numbers of samples callers think of (each is a graph on a GPU)."""
    return 1 << (draws - 1).bit_length() if draws else 0
