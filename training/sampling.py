"""How one answer is drawn: the settings of `training.latent`, one frozen record per answer.

Leaves out when an answer ends (stop strings, budgets): that is the engine's.
"""

from dataclasses import dataclass

MOST_DRAWS = 64
_SMALLEST = 1e-6  # a divisor below it overflows float32 scores to infinity


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings of the latent step and the token step (LEPO, arXiv:2604.17892, section 3).

    Example: `Sampling(latent_length=4, tau=0.5, temperature=1.0, top_k=30, top_p=0.95, seed=7)`.

    Raises:
        ValueError: a value is out of its range; the message names the field.

    """

    latent_length: int = 0  # L, latent steps before the first token; >= 0
    tau: float = 0.5  # temperature of the Gumbel-softmax over the support; in [1e-6, 10], published: 0.3 to 0.5
    temperature: float = 1.0  # divides the logits; in [0, 10], below 1e-6 is 0: greedy (a support of one)
    top_k: int = 30  # candidates kept; >= 1
    top_p: float = 0.95  # nucleus kept, in (0, 1]
    seed: int = 0  # names the noise; 0 <= seed < 2**63
    draws: int = 1  # Gumbel-softmax samples whose mean is a latent step's mixture; in [1, 64], published: 1
    min_p: float = 0.0  # candidates less likely than this share of the likeliest are dropped; in [0, 1], 0 is off

    def __post_init__(self) -> None:
        if self.latent_length < 0:
            raise ValueError(f"latent_length must be 0 or more, got {self.latent_length}")
        if not _SMALLEST <= self.tau <= 10.0:
            raise ValueError(f"tau must be in [1e-6, 10], got {self.tau}")
        if not 0.0 <= self.temperature <= 10.0:
            raise ValueError(f"temperature must be in [0, 10], got {self.temperature}")
        if self.temperature < _SMALLEST:
            object.__setattr__(self, "temperature", 0.0)
        if self.top_k < 1:
            raise ValueError(f"top_k must be 1 or more, got {self.top_k}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in [0, 2**63), got {self.seed}")
        if not 1 <= self.draws <= MOST_DRAWS:
            raise ValueError(f"draws must be in [1, {MOST_DRAWS}], got {self.draws}")
        if not 0.0 <= self.min_p <= 1.0:
            raise ValueError(f"min_p must be in [0, 1], got {self.min_p}")


@dataclass(frozen=True, slots=True)
class Target:
    """Whose sampling learns: how the service draws where a request does not say.

    An answer asked otherwise (hotter, greedier, through another filter) was drawn by another policy, even on the same
    weights. What it teaches is about the target.

    Example: `Target(temperature=1.0, top_k=30, top_p=0.95)`.

    Raises:
        ValueError: a value is out of its range; the message names the field.

    """

    temperature: float = 1.0  # divides the logits, > 0
    top_k: int = 30  # candidates kept; >= 1
    top_p: float = 0.95  # nucleus kept, in (0, 1]

    def __post_init__(self) -> None:
        if not self.temperature >= _SMALLEST:
            raise ValueError(f"temperature must be 1e-6 or more, got {self.temperature}: a greedy policy cannot learn")
        if self.top_k < 1:
            raise ValueError(f"top_k must be 1 or more, got {self.top_k}")
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")

    @classmethod
    def of(cls, sampling: Sampling) -> "Target":
        """Take over the settings of an answer; where it is greedy, temperature 1, which its record is taken at."""
        return cls(sampling.temperature or 1.0, sampling.top_k, sampling.top_p)

    def drew(self, sampling: Sampling) -> bool:
        """Whether an answer was drawn with the target's own settings."""
        settings = (sampling.temperature, sampling.top_k, sampling.top_p)
        return settings == (self.temperature, self.top_k, self.top_p) and sampling.min_p == 0.0
