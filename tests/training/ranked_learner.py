"""One of the processes of test_ranks: learns with the others and writes down what it then holds.

Arguments: model, dtype, kind ("sharded" or "adapters"), checkpointing ("0" or "1"), directory.
"""

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from training.distributed.ranks import ALONE, Ranks, joined
from training.distributed.sharded import Sharded
from training.models.lora import Adapted, LoraSettings
from training.optimization.health import UpdateCancelled
from training.update import Learner

from .rollouts import mixed_batch, tiny
from .test_ranks import ADVANTAGES, UPDATES, config_of


def learn(ranks: Ranks, name: str, dtype: torch.dtype, kind: str, checkpointing: bool, out: Path) -> None:
    """Learn, be cancelled, and go on from the saved state."""
    torch.set_num_threads(1)
    rollouts = mixed_batch(dtype=dtype)
    served, reports = tiny(name, dtype), []
    state: dict[str, torch.Tensor] = {}
    first = tiny(name, dtype, seed=4)
    for _ in range(UPDATES):
        if kind == "adapters":
            twin: Adapted | Sharded | None = Adapted(served, LoraSettings(2, 4.0), "tiny")
        else:
            twin = Sharded(served, ranks) if ranks.size > 1 else None
        learner = Learner(twin.model if twin else served, config_of(checkpointing), first, ranks)
        if kind == "sharded" and state:
            learner.restore(state)
        reports.append(asdict(learner.update(rollouts, ADVANTAGES)))
        with pytest.raises(UpdateCancelled):  # one process's wish is everyone's
            learner.update(rollouts, ADVANTAGES, cancelled=partial(bool, ranks.leads))
        if twin:
            twin.merge()
        state = learner.state()
        reports[-1]["held"] = sum(
            one.to_local().numel() if isinstance(one, DTensor) else one.numel() for one in learner.model.parameters()
        )
    held = {f"weights.{key}": one.detach().clone().contiguous() for key, one in served.named_parameters()}
    save_file(held | state, out / f"{kind}-{ranks.size}-{ranks.rank}.safetensors")
    (out / f"{kind}-{ranks.size}-{ranks.rank}.json").write_text(json.dumps(reports, default=str))


def main() -> None:
    """Join the others if there are any."""
    name, dtype, kind, checkpointing, out = sys.argv[1:6]
    arguments = name, getattr(torch, dtype), kind, checkpointing == "1", Path(out)
    if len(sys.argv) > 6:
        learn(ALONE, *arguments)
        return
    with joined("cpu") as ranks:
        learn(ranks, *arguments)


if __name__ == "__main__":
    main()
