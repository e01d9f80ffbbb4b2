"""What an answer was made of, for a person: its latent steps as pictures, its tokens with their log-probabilities.

Axes: L latent steps, K candidates. Leaves out drawing (`app.api.console.drawing.latents`) and the trace itself
(`training.rollout`).
"""

import math
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup
from torch import Tensor

from app.api.answering.token_names import TokenNames
from app.api.console.drawing.latents import Candidate, bars, visible
from training.rollout import Rollout

SHOWN: Final = 6  # candidates of a step
MOST_STEPS: Final = 64
MOST_TOKENS: Final = 4_000
LEVELS: Final = 8  # of colour, from certain to surprising


@dataclass(frozen=True, slots=True)
class StepShown:
    """A latent step."""

    number: int  # from 1
    picture: Markup
    reading: str  # the heaviest candidate, as text
    entropy: float  # of the distribution it was drawn from, within its support, in nats
    support: float  # effective number of candidates in the mixture: e to the entropy of the weights
    kept: int  # candidates in the support
    mass: float  # share of the whole distribution that the support holds


@dataclass(frozen=True, slots=True)
class TokenShown:
    """A token of the answer."""

    text: str
    level: int  # of surprise: 0 certain, LEVELS - 1 least likely
    words: str  # its log-probability and probability


@dataclass(frozen=True, slots=True)
class TraceShown:
    """All of it."""

    steps: list[StepShown]
    tokens: list[TokenShown]
    left_out: int  # steps and tokens beyond what is shown
    placement: str  # where the latent steps sat
    settings: dict[str, float | int | None]  # of sampling
    mean_logprob: float | None  # of the tokens, in nats


def show_trace(trace: Rollout, names: TokenNames) -> TraceShown:
    """Describe a trace."""
    steps = [
        show_step(place, trace.latent_ids_LK[place], trace, names)
        for place in range(min(MOST_STEPS, trace.latent_length))
    ]
    ids, logprobs = trace.token_ids_T.tolist(), trace.token_logprobs_T.tolist()
    shown = list(zip(ids, logprobs, strict=True))[:MOST_TOKENS]
    sampling = trace.sampling
    return TraceShown(
        steps=steps,
        tokens=[show_token(names[token], logprob) for token, logprob in shown],
        left_out=trace.latent_length + len(ids) - len(steps) - len(shown),
        placement=trace.placement,
        settings={name: getattr(sampling, name) for name in type(sampling).__dataclass_fields__},
        mean_logprob=sum(logprobs) / len(logprobs) if logprobs else None,
    )


def show_step(place: int, ids_K: Tensor, trace: Rollout, names: TokenNames) -> StepShown:
    """Describe one latent step."""
    inside_K = trace.latent_logprobs_LK[place].isfinite()
    ids = ids_K[inside_K].tolist()
    weights = trace.latent_weights_LK[place][inside_K].tolist()
    probabilities = trace.latent_logprobs_LK[place][inside_K].exp().tolist()
    ranked = sorted(zip(weights, probabilities, ids, strict=True), reverse=True)
    candidates = [Candidate(names[token], weight, share) for weight, share, token in ranked[:SHOWN]]
    reading = visible(candidates[0].name) if candidates else ""
    spread = entropy(probabilities)
    effective = math.exp(entropy(weights))
    label = f"Latent step {place + 1}: read as {reading}, {effective:.1f} effective candidates of {len(ids)}"
    mass = math.exp(float(trace.latent_log_mass_L[place]))
    return StepShown(place + 1, bars(candidates, label), reading, spread, effective, len(ids), min(1.0, mass))


def entropy(shares: list[float]) -> float:
    """Entropy of shares that add up to 1, in nats."""
    return max(0.0, -sum(share * math.log(share) for share in shares if share > 0))


def show_token(name: str, logprob: float) -> TokenShown:
    """Describe a token; each level of surprise is half a nat, the last one open."""
    level = min(LEVELS - 1, int(-logprob * 2)) if math.isfinite(logprob) else LEVELS - 1
    return TokenShown(name, level, f"{visible(name)}: {logprob:.3f} nats, {math.exp(logprob):.1%}")
