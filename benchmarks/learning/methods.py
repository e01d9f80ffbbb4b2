"""The methods that are compared: a few settings of the sampler and of the objective each, and what is tried on each.

Every method has the base, the rollouts, the optimizer and the loop in common, and as many trials on validation as any
other. On a real model (`REAL`) latent steps sit where that model leaves its answers whole. Leaves out what the settings
do (`sampler`, `rival`, `gaussian`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from training.bench_model.teacher import THOUGHTS
from training.placement import PlacementName

LatentNoise = Literal[
    "gumbel",
    "none",  # z = pi~
    "clamped",  # Gumbel cut to [-1.5, 3]
    "one_sided",  # the same plus 1.5, and what is kept is the largest scores
    "gaussian",  # on the mean embedding
    "dropout",  # entries of the mean embedding are left out, the same ones at each step of a rollout
]
Learns = Literal["soft_label", "tokens", "gumbel_density", "one_sided_density", "gaussian_density"]
ONE_HOT = 1e-6  # a tau at which a Gumbel-softmax sample is a token


@dataclass(frozen=True, slots=True)
class Method:
    """What sets a method apart."""

    name: str
    latent_length: int = THOUGHTS  # L in training and in its own inference; 0: tokens only
    noise: LatentNoise = "gumbel"  # on latent steps
    learns: Learns = "tokens"  # what latent steps teach
    tau: float = 0.5  # of the mixture
    draws: int = 1  # Gumbel-softmax samples whose mean is the mixture
    spread: float = 0.0  # of Gaussian noise, as a share of the embedding rows' root mean square; or dropped, in [0, 1)
    latent_top_k: int = 30  # candidates of a latent step
    latent_scale: float = 1.0  # of the soft-label term
    placement: PlacementName = "answer"  # where latent steps sit; see `training.placement`


@dataclass(frozen=True, slots=True)
class Candidate:
    """A method as it is run."""

    method: Method
    rate: float  # Adam's learning rate


def _candidates(method: Method, rates: Sequence[float], **knob: Sequence[float]) -> list[Candidate]:
    """Every rate with every value of the method's own knob."""
    [(name, values)] = knob.items() or [("tau", [method.tau])]
    changes: list[dict[str, Any]] = [{name: value} for value in values]
    return [Candidate(replace(method, **change), rate) for rate, change in product(rates, changes)]


def multiplex(tokens: int = 3) -> Method:
    """Multiplex Thinking (arXiv:2601.08808): a latent step is the mean embedding of K tokens drawn independently.

    Its probability is the product of theirs, so on policy the gradient of its PPO ratio is that of the sum of their
    log-probabilities: K times our soft-label term, whose weights are their counts over K. Differs from the paper in
    its number of latent steps, which is fixed as for every method.
    """
    return Method("multiplex", learns="soft_label", tau=ONE_HOT, draws=tokens, latent_scale=float(tokens))


LOW, HIGH = 1e-4, 3e-4
TRIED = {
    each[0].method.name: each
    for each in (
        _candidates(Method("grpo", 0), (3e-5, LOW, HIGH, 6e-4)),
        # z = pi~ is no random draw: it has no score to learn from, so only the tokens after it teach
        _candidates(Method("deterministic", noise="none"), (3e-5, LOW, HIGH, 6e-4)),
        _candidates(
            Method("soft_tokens", noise="gaussian", learns="gaussian_density"), (LOW, HIGH), spread=(0.1, 0.33)
        ),
        _candidates(
            Method("soft_grpo", noise="clamped", learns="gumbel_density", latent_top_k=5), (LOW, HIGH), tau=(0.1, 0.5)
        ),
        _candidates(
            Method("latent_grpo", noise="one_sided", learns="one_sided_density", latent_top_k=10, tau=1.0),
            (3e-5, LOW, HIGH, 6e-4),
        ),
        # Dropout-GRPO's noise (arXiv:2606.10184): a mask has no score either
        _candidates(Method("dropout", noise="dropout"), (LOW, HIGH), spread=(0.1, 0.3)),
        _candidates(multiplex(), (3e-5, LOW, HIGH, 6e-4)),
        _candidates(Method("lepo", learns="soft_label"), (LOW, HIGH), tau=(0.5, 1.0)),
        _candidates(Method("lepo_noise_only"), (LOW, HIGH), tau=(0.5, 1.0)),
        _candidates(Method("lepo_averaged", learns="soft_label", tau=1.0), (LOW, HIGH), draws=(4, 8)),
    )
}


def _on_real(method: Method) -> Method:
    """Put latent steps where a model that never met a mixture answers in whole sentences all the same."""
    return replace(method, placement="preamble")


REAL = {
    one.name: one
    for one in (
        Method("grpo", 0),
        _on_real(Method("latent_grpo", noise="one_sided", learns="one_sided_density", latent_top_k=10, tau=1.0)),
        _on_real(multiplex()),
        _on_real(Method("lepo", learns="soft_label")),
        _on_real(Method("lepo_noise_only")),
        _on_real(Method("lepo_averaged", learns="soft_label", tau=1.0, draws=4)),
    )
}
