"""A process of test_gradient that learns with little memory to spare, and writes down what it learned.

Arguments: MiB of address space beyond what it has when the update begins (0: no limit), file for the first moments.
"""

import json
import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.shapes import Shape
from benchmarks.update.load import Load, advantages_of, rollouts_of
from training.update import Learner

from .rollouts import SHAPE
from .test_gradient import CONFIG

SIZES = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 6, "vocab_size": 512}
LOAD = Load(Shape("", 128, 6, 4, 2, 512, 512), 16, (60, 64), 4, (60, 64), 1, 0, 0)  # 2,048 positions: 270 MiB


def main() -> None:
    """Learn once."""
    spare, out = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = cast("PreTrainedModel", LlamaForCausalLM(LlamaConfig(**(SHAPE | SIZES | {"initializer_range": 0.02}))))
    rollouts = rollouts_of(LOAD)
    learner = Learner(model, CONFIG)
    learner.measure(rollouts[:1])  # whatever torch makes once is there by now
    if spare:
        held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + spare * 2**20, resource.RLIM_INFINITY))
    report = learner.update(rollouts, advantages_of(len(rollouts)))
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    save_file({name: one for name, one in learner.state().items() if name.startswith("exp_avg.")}, out)
    print(json.dumps(asdict(report), default=str))  # noqa: T201, the parent reads it


if __name__ == "__main__":
    main()
