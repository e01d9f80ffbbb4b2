"""The methods that are compared: a few settings of the sampler and of the objective each.

Every method has the base, the rollouts, the optimizer and the loop in common. Leaves out Soft Tokens, whose Gaussian
noise on embeddings is no mixture of kept ids and so cannot be recorded as a rollout.
"""

from dataclasses import dataclass
from typing import Literal

LatentNoise = Literal["gumbel", "none", "clamped"]


@dataclass(frozen=True, slots=True)
class Method:
    """What sets a method apart."""

    name: str
    latent_length: int  # L in training and in its own inference; 0: tokens only
    noise: LatentNoise = "gumbel"  # on latent steps; "none": z = pi~; "clamped": Gumbel cut to [-1.5, 3]
    learns: Literal["soft_label", "tokens", "gumbel_density"] = "tokens"  # what latent steps teach
    tau: float = 0.5  # of the mixture
    latent_top_k: int = 30  # candidates of a latent step


METHODS = {
    method.name: method
    for method in (
        Method("grpo", 0),
        # z = pi~ is no random draw: it has no score to learn from, so only the tokens after it teach
        Method("deterministic", 4, noise="none"),
        Method("soft_grpo", 4, noise="clamped", learns="gumbel_density", tau=0.1, latent_top_k=5),
        Method("lepo", 4, learns="soft_label"),
        Method("lepo_noise_only", 4),
    )
}
