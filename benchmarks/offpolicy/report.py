"""What trials say: each condition's gain and its share of the clean one's, and how far old answers are from a policy.

Intervals are of 95%, by a bootstrap over seeds and, within them, over held-out problems, the same ones before and
after and in both conditions. Leaves out running trials.

Axes: S seeds, N held-out problems.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import significant

RESAMPLES = 2000
SHOWN = (0.5, 0.9, 0.99)  # quantiles of divergence


def gains(runs: Sequence[dict[str, Any]], tries: int) -> Tensor:
    """Gain of each problem of each run of one condition, as a share of its tries; float64 [S, N]."""
    after_SN, before_SN = (
        torch.tensor([run[when] for run in runs], dtype=torch.float64) for when in ("right_after", "right_before")
    )
    return (after_SN - before_SN) / tries


def compared(found: Mapping[str, Tensor], clean: str) -> dict[str, dict[str, Any]]:
    """Mean gain of every condition, and its share of the clean one's if that gained, with intervals.

    Args:
        found: gains [S, N] by condition, all over the same seeds and problems.
        clean: name of the condition whose grades come at once.

    """
    seeds, problems = found[clean].shape
    generator = torch.Generator().manual_seed(0)
    drawn: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(RESAMPLES):
        rows_S = torch.randint(seeds, (seeds,), generator=generator)
        columns_N = torch.randint(problems, (problems,), generator=generator)
        for name, gain_SN in found.items():
            drawn[name].append(float(gain_SN[rows_S][:, columns_N].mean()))
    table, whole = {}, float(found[clean].mean())
    for name, gain_SN in found.items():
        mine, base = torch.tensor(drawn[name]), torch.tensor(drawn[clean])
        table[name] = {
            "gain": significant(float(gain_SN.mean())),
            "gain_interval": interval(mine),
            "share": significant(float(gain_SN.mean()) / whole) if whole else None,
            "share_interval": interval(mine / base),
            "by_seed": [significant(float(one)) for one in gain_SN.mean(-1)],
        }
    return table


def interval(values: Tensor) -> list[float] | None:
    """Give the middle 95% of the resampled figures that are numbers."""
    if not len(values := values[values.isfinite()]):
        return None
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return [significant(low), significant(high)]


def by_lag(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Divergence of answers measured so many updates after they were drawn, over all runs."""
    table = {}
    for lag in runs[0]["lags"]:
        seen = [one for run in runs for one in run["lags"][lag]]
        if not seen:
            continue
        nats = torch.tensor([one["nats"] for one in seen], dtype=torch.float64)
        quantiles = nats.quantile(torch.tensor(SHOWN, dtype=torch.float64)).tolist()
        table[lag] = {
            "answers": len(seen),
            "mean": significant(float(nats.mean())),
            **{f"p{round(100 * at)}": significant(one) for at, one in zip(SHOWN, quantiles, strict=True)},
            "most": significant(float(nats.max())),
            "token_mean": significant(sum(one["token_nats"] for one in seen) / len(seen)),
            "latent_mean": significant(sum(one["latent_nats"] for one in seen) / len(seen)),
            "weight": significant(sum(one["weight"] for one in seen) / len(seen)),
        }
    return table
