"""A process of test_growth: updates of rollouts of ever other lengths, and the memory that is left taken after each.

Arguments: "small" or "135m", number of updates, padded positions of a micro-batch, "undo" or "drop".
The last line of stdout is JSON: bytes resident before and after each update, their high-water mark, what is planned.
"""

import gc
import json
import random
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.shapes import Shape
from benchmarks.update.load import Load, advantages_of, rollouts_of
from training.update import Learner

from .rollouts import SHAPE
from .test_gradient import CONFIG

SIZES = {
    "small": Shape("small", 256, 6, 4, 2, 1024, 8192),  # 8 million weights
    "135m": Shape("135m", 576, 30, 9, 3, 1536, 49_152),  # SmolLM2's sizes
}


def loads(shape: Shape, updates: int) -> list[Load]:
    """Make a batch for each update, its lengths drawn anew."""
    draw = random.Random(0)
    found = []
    for _ in range(updates):
        prompt, answer = draw.randrange(20, 90), draw.randrange(20, 150)
        found.append(Load(shape, draw.randrange(4, 13), (prompt, prompt + 40), 4, (answer, answer + 60), 1, 0, 0))
    return found


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def main() -> None:
    """Learn, and say what was taken."""
    shape, updates = SIZES[sys.argv[1]], int(sys.argv[2])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        **SHAPE
        | {
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "vocab_size": shape.vocabulary,
            "max_position_embeddings": 2048,
            "initializer_range": 0.02,
            "tie_word_embeddings": True,
        }
    )
    gc.collect()
    before = resident()
    model = cast("PreTrainedModel", LlamaForCausalLM(config))
    settings = replace(CONFIG, micro_batch_positions=int(sys.argv[3]), probe_rollouts=8, undo=sys.argv[4] == "undo")
    learner = Learner(model, settings)
    after, marks = [], []
    for load in loads(shape, updates):
        rollouts = rollouts_of(load)
        learner.update(rollouts, advantages_of(len(rollouts)))
        after.append(resident())
        marks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    figures = {
        "before": before,
        "after": after,
        "marks": marks,
        "parameters": sum(one.numel() for one in model.parameters()),
        "activations": learner.plan(400).activations,
    }
    print(json.dumps(figures))  # noqa: T201, the parent reads it


if __name__ == "__main__":
    main()
