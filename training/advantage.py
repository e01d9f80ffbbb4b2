"""Advantages: how much better an answer was than expected, and where that expectation came from.

Three honest baselines, because live traffic often gives one grade and no group:

- "group": the other answers to the same prompt under the same policy version (GRPO, arXiv:2402.03300, equation 3);
- "tracker": a value tracked per key across updates (SPO, arXiv:2509.13232, section 3);
- "batch": the mean of the batch (REINFORCE++, arXiv:2501.03262).

Each divides by the spread of what it is compared with, so that a group in which one answer was right weighs as much as
one in which half were; Dr. GRPO (arXiv:2503.20783) does not, and neither do they where `divided` is False.

LEPO's latent surrogate (z - softmax) is not mean-zero, so its drift cancels only under centred advantages: single
grades are centred over the batch, whichever baseline they had. Pure functions; where a tracker is kept between updates
is the caller's.

The turns of an episode share its grade and are one voice: they are no group by themselves, they count once for a
tracker, and each has the episode's advantage times its own weight. The expectation is weighed alike, so that what all
turns get sums to 0 however long the episodes are.

Axes: B graded rollouts, G those of a group, N those compared.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Baseline = Literal["group", "tracker", "batch", "none"]
Mode = Literal["auto", "group", "tracker", "batch"]

STD_FLOOR = 1e-4  # added to a standard deviation before dividing
PSEUDO_SAMPLES = 8.0  # weight of a new tracker's first guess: 1 / (1 - RHO_MIN)
RHO_MIN, RHO_MAX = 0.875, 0.96  # memory of 8 to 25 grades
DRIFT_HALF = 0.06  # nats of policy drift that halve what a tracker remembers


@dataclass(frozen=True, slots=True)
class Graded:
    """What a baseline needs to know of one graded rollout.

    Example: `Graded(reward=1.0, group="prompt-17", policy_version=3, key="tenant-a/math/easy")`.
    """

    reward: float  # the grade; in [0, 1] where a tracker is used
    group: str | None  # names the prompt it shares with other answers; None: it stands alone
    policy_version: int  # version of the weights that drew it
    key: str  # what the value tracker is kept for; not the prompt, which rarely repeats
    episode: str | None = None  # names the episode it is a turn of; None: the grade is of the answer itself
    weight: float = 1.0  # its share of the advantage, in (0, 1]


@dataclass(frozen=True, slots=True)
class Tracker:
    """Beta posterior over the success of one key (SPO).

    Example: `Tracker.start(0.5, drift=0.0)` holds 8 pseudo-samples, half of them successes.
    """

    alpha: float  # successes remembered, > 0 unless nothing ever succeeded
    beta: float  # failures remembered
    drift: float  # the policy's cumulative drift when the key was last seen, nats, >= 0

    @classmethod
    def start(cls, value: float, drift: float) -> "Tracker":
        """Begin at `value` in [0, 1] with the weight of 8 pseudo-samples."""
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"a tracker's value must be in [0, 1], got {value}")
        return cls(PSEUDO_SAMPLES * value, PSEUDO_SAMPLES * (1.0 - value), drift)

    @property
    def value(self) -> float:
        """Expected reward, the posterior's mean."""
        return self.alpha / (self.alpha + self.beta)

    def updated(self, reward: float, drift: float) -> "Tracker":
        """Return the posterior after one more grade, older ones forgotten as far as the policy has moved since.

        Args:
            reward: in [0, 1].
            drift: the policy's cumulative drift now, >= the tracker's own.

        """
        _require_rewards([reward], bounded=True)
        rho = memory(drift - self.drift)
        return Tracker(rho * self.alpha + reward, rho * self.beta + 1.0 - reward, drift)


@dataclass(frozen=True, slots=True, eq=False)
class Advantages:
    """Advantages with the baseline of each, and the trackers after this batch."""

    values_B: Tensor  # float64 [B]; 0 where the baseline is "none"
    baselines: tuple[Baseline, ...]  # B of them
    trackers: dict[str, Tracker]  # state of every key of the batch, to be kept for the next one


def memory(drift: float) -> float:
    """Share of a tracker that survives a drift of D nats: 2^(-D / 0.06), within [0.875, 0.96].

    Source: SPO, arXiv:2509.13232, section 3.
    """
    return min(RHO_MAX, max(RHO_MIN, math.exp2(-max(0.0, drift) / DRIFT_HALF)))


def group_advantages(rewards_G: Tensor, weights_G: Tensor | None = None, *, divided: bool = True) -> Tensor:
    """W (R - mean) / (std + 1e-4) over one group, or w (R - mean), mean and std weighed by w; sums to 0.

    The standard deviation is the sample one (divided by G - 1), as `torch.std` takes it by default and so the
    reference and the common GRPO trainers do.

    Args:
        rewards_G: [G], G >= 2.
        weights_G: [G], in (0, 1]; None: all 1.
        divided: by the standard deviation.

    Raises:
        ValueError: a group of one, whose advantage would be 0 whatever the grade.

    """
    if len(rewards_G) < 2:
        raise ValueError("a group needs 2 or more graded answers; use the 'tracker' or 'batch' baseline for one")
    weights_G = torch.ones(len(rewards_G)) if weights_G is None else weights_G
    return _standardised(rewards_G.double(), weights_G.double(), divided=divided)


def choose_baseline(
    graded: Sequence[Graded],
    mode: Mode = "auto",
    trackers: Mapping[str, Tracker] | None = None,
    drift: float = 0.0,
    *,
    divided: bool = True,
) -> Advantages:
    """Give every graded rollout an advantage and say where its baseline came from.

    "auto" takes the group where one has two or more graded answers under one policy version, else the key's tracker
    where there is one, else the batch. Residuals of single grades are standardised together over the batch; one that
    has no other beside it keeps its residual as it is, and has the baseline "none" where that could only be 0 (a batch
    of one, measured by its own mean). "tracker" starts unknown keys at the batch's mean. "group" leaves single grades
    at 0 with baseline "none".

    Args:
        graded: the batch, at least one.
        mode: which baselines may be used.
        trackers: state per key before this batch; a value is used as it was before the batch's grades.
        drift: the policy's cumulative drift now, nats; see `Tracker.drift`.
        divided: by the standard deviation of the group, or of the batch's residuals; False: only centred.

    Raises:
        ValueError: nothing to grade, an unknown mode, a reward that is no finite number, or mode "tracker" with a
            reward outside [0, 1].

    """
    if not graded:
        raise ValueError("no graded rollout: nothing to learn from")
    if mode not in {"auto", "group", "tracker", "batch"}:
        raise ValueError(f"baseline must be 'auto', 'group', 'tracker' or 'batch', got {mode!r}")
    _require_rewards([one.reward for one in graded], bounded=mode == "tracker")
    known = dict(trackers or {})
    rewards_B = torch.tensor([one.reward for one in graded], dtype=torch.float64)
    weights_B = torch.tensor([one.weight for one in graded], dtype=torch.float64)
    mean = float((weights_B * rewards_B).sum() / weights_B.sum())
    grouped = _groups(graded) if mode in {"auto", "group"} else []
    baselines = _baselines(graded, mode, grouped, known)
    values_B = torch.zeros_like(rewards_B)
    for members in grouped:
        values_B[members] = group_advantages(rewards_B[members], weights_B[members], divided=divided)
    single = [index for index, baseline in enumerate(baselines) if baseline in {"tracker", "batch"}]
    residuals_B = _residuals(graded, rewards_B, baselines, known, mean)
    if _voices(graded, single) > 1:
        values_B[single] = _standardised(residuals_B[single], weights_B[single], divided=divided)
    elif single and (_voices(graded, range(len(graded))) > 1 or graded[single[0]].key in known):
        values_B[single] = weights_B[single] * residuals_B[single]
    else:
        for index in single:
            baselines[index] = "none"
    return Advantages(values_B, tuple(baselines), _tracked(graded, known, mean, drift))


def _require_rewards(rewards: Sequence[float], bounded: bool) -> None:
    for reward in rewards:
        if not math.isfinite(reward):
            raise ValueError(f"a reward must be a finite number, got {reward}: leave ungraded answers out")
        if bounded and not 0.0 <= reward <= 1.0:
            raise ValueError(f"a value tracker takes rewards in [0, 1], got {reward}: rescale it or use 'batch'")


def _groups(graded: Sequence[Graded]) -> list[list[int]]:
    """Find answers to one prompt under one policy version, where two or more voices are; gives their indices."""
    members: dict[tuple[str, int], list[int]] = {}
    for index, one in enumerate(graded):
        if one.group is not None:
            members.setdefault((one.group, one.policy_version), []).append(index)
    return [indices for indices in members.values() if _voices(graded, indices) > 1]


def _voices(graded: Sequence[Graded], indices: Iterable[int]) -> int:
    """Count what was graded apart: answers, and episodes however many turns of them there are."""
    return len({graded[index].episode or index for index in indices})


def _baselines(
    graded: Sequence[Graded], mode: Mode, grouped: Iterable[Sequence[int]], known: Mapping[str, Tracker]
) -> list[Baseline]:
    """Name the baseline of each rollout."""
    in_group = {index for members in grouped for index in members}

    def single(one: Graded) -> Baseline:
        if mode == "group":
            return "none"
        if mode == "auto":
            return "tracker" if one.key in known else "batch"
        return mode

    return ["group" if index in in_group else single(one) for index, one in enumerate(graded)]


def _residuals(
    graded: Sequence[Graded],
    rewards_B: Tensor,
    baselines: Sequence[Baseline],
    known: Mapping[str, Tracker],
    mean: float,
) -> Tensor:
    """Reward minus expectation: the key's value as it was before this batch, or the mean of the batch."""

    def expected(one: Graded, baseline: Baseline) -> float:
        return known[one.key].value if baseline == "tracker" and one.key in known else mean

    return rewards_B - torch.tensor(
        [expected(one, baseline) for one, baseline in zip(graded, baselines, strict=True)], dtype=torch.float64
    )


def _tracked(graded: Sequence[Graded], known: Mapping[str, Tracker], mean: float, drift: float) -> dict[str, Tracker]:
    """Trackers of the batch's keys after its grades; rewards that no tracker can hold are left out."""
    after: dict[str, Tracker] = {}
    heard: set[str] = set()
    for one in graded:
        if not 0.0 <= one.reward <= 1.0 or one.episode in heard:
            continue
        if one.episode is not None:
            heard.add(one.episode)
        before = after.get(one.key) or known.get(one.key) or Tracker.start(min(1.0, max(0.0, mean)), drift)
        after[one.key] = before.updated(one.reward, drift)
    return after


def _standardised(values_N: Tensor, weights_N: Tensor, *, divided: bool) -> Tensor:
    """W (x - mean) / (std + 1e-4), or w (x - mean), [N], N >= 2; exactly 0 where all are equal.

    Mean and standard deviation are weighed by w; with weights of 1 the latter is the sample one.
    """
    if bool((values_N == values_N[0]).all()):
        return torch.zeros_like(values_N)
    total = weights_N.sum()
    centred_N = values_N - (weights_N * values_N).sum() / total
    if not divided:
        return weights_N * centred_N
    count = len(values_N)
    std = ((weights_N * centred_N.square()).sum() / (total * (count - 1) / count)).sqrt()
    return weights_N * centred_N / (std + STD_FLOOR)
