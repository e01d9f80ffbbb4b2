"""When an update must not stand: numbers that are no numbers, a step that went too far, a policy that collapsed.

Each check raises `UpdateRejected` with a diagnosis that can be stored as JSON beside the job. Undoing the step is
`training.update`'s. Leaves out whether answers got better: that is the held-out gate's.
"""

import math
from dataclasses import dataclass
from typing import Literal

Reason = Literal[
    "loss_not_finite",
    "gradient_not_finite",
    "gradient_exploded",
    "policy_moved_too_far",
    "entropy_collapsed",
    "length_out_of_bounds",
]


@dataclass(frozen=True, slots=True)
class HealthConfig:
    """Bounds of a healthy update.

    Example: `HealthConfig(max_kl=0.1, min_entropy=0.05)`.

    Raises:
        ValueError: a bound is out of its range; the message names the field.

    """

    max_kl: float = 0.5  # nats per step, KL to the policy before the update, > 0; inf: no bound
    min_entropy: float = 0.0  # nats, mean token entropy after the update, >= 0; 0: no bound
    explosion_norm: float = 1e3  # gradient norm before clipping, > 0; inf: no bound
    min_mean_tokens: float = 0.0  # mean answer length of the batch, >= 0; 0: no bound
    max_mean_tokens: float = math.inf  # mean answer length of the batch, tokens; inf: no bound

    def __post_init__(self) -> None:
        for name in ("max_kl", "explosion_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not self.min_entropy >= 0:
            raise ValueError(f"min_entropy must be 0 or more, got {self.min_entropy}")
        if not 0 <= self.min_mean_tokens <= self.max_mean_tokens:
            raise ValueError(
                f"0 <= min_mean_tokens <= max_mean_tokens must hold, got {self.min_mean_tokens}, {self.max_mean_tokens}"
            )


class UpdateStopped(Exception):
    """Base of the reasons why an update left no trace: the learner is as it was before.

    UpdateStopped
    |-- UpdateRejected
    `-- UpdateCancelled
    """


class UpdateCancelled(UpdateStopped):
    """The caller asked to stop."""


class UpdateRejected(UpdateStopped):
    """A guard refused the update; `diagnosis` says which one and with what figures."""

    def __init__(self, reason: Reason, advice: str, **figures: float) -> None:
        shown = {name: value if math.isfinite(value) else str(value) for name, value in figures.items()}
        listed = ", ".join(f"{name} {value}" for name, value in shown.items())
        super().__init__(f"update rejected: {reason.replace('_', ' ')} ({listed}). {advice}")
        self.diagnosis: dict[str, str | float] = {"reason": reason, "advice": advice, **shown}


def check_length(mean_tokens: float, config: HealthConfig) -> None:
    """Refuse a batch whose answers have become too short or too long to be sane."""
    if not config.min_mean_tokens <= mean_tokens <= config.max_mean_tokens:
        raise UpdateRejected(
            "length_out_of_bounds",
            "Look at recent answers before learning from them; roll back if they degenerated.",
            mean_tokens=mean_tokens,
            minimum=config.min_mean_tokens,
            maximum=config.max_mean_tokens,
        )


def check_gradient(loss: float, norm: float, config: HealthConfig) -> None:
    """Refuse a step before it is taken: NaN or infinite loss or gradient, or a norm beyond the bound."""
    if not math.isfinite(loss):
        raise UpdateRejected(
            "loss_not_finite", "Check the batch for extreme log-probabilities.", loss=loss, gradient_norm=norm
        )
    if not math.isfinite(norm):
        raise UpdateRejected(
            "gradient_not_finite", "Lower the learning rate or use float32.", loss=loss, gradient_norm=norm
        )
    if norm > config.explosion_norm:
        raise UpdateRejected(
            "gradient_exploded",
            "Check advantages and staleness of the batch; raise negative_latent_floor towards 0.",
            loss=loss,
            gradient_norm=norm,
            limit=config.explosion_norm,
        )


def check_policy(kl: float, entropy: float, config: HealthConfig) -> None:
    """Refuse the policy that an update made: too far from the one before, or too sure of itself."""
    if not kl <= config.max_kl:  # a NaN is refused too
        raise UpdateRejected(
            "policy_moved_too_far", "Lower the learning rate or raise beta.", kl=kl, limit=config.max_kl
        )
    if not entropy >= config.min_entropy:
        raise UpdateRejected(
            "entropy_collapsed",
            "Roll back further, raise beta, or bring tau and top_p back to their published range.",
            entropy=entropy,
            limit=config.min_entropy,
        )
