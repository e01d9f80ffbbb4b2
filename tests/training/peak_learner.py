"""A process of test_footprint: gradients of some shapes, for each its high-water mark and what was estimated, as JSON.

Argument: JSON, a list of shapes, each with hidden size, layers, vocabulary, rollouts, positions of each, attention, and
whether layers are recomputed.
"""

import gc
import json
import resource
import sys
from pathlib import Path
from typing import cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.shapes import Shape
from benchmarks.update.gradient import ours
from benchmarks.update.load import Load, rollouts_of
from training.memory.footprint import activations_of
from training.memory.recompute import checkpointed_layers, recomputing
from training.memory.room import give_back

from .rollouts import SHAPE

CHUNK = 2**26
LATENTS = 4


def high_water() -> int:
    """Most bytes of this process in memory since the mark was last reset."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def measured(
    hidden: int, layers: int, vocabulary: int, rows: int, length: int, attention: str, recompute: bool
) -> dict[str, int]:
    """Take a gradient of one shape; what it took."""
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": 4 * hidden}
    config = LlamaConfig(
        **SHAPE | sizes | {"vocab_size": vocabulary, "max_position_embeddings": 4096, "tie_word_embeddings": True}
    )
    config._attn_implementation = attention
    model = cast("PreTrainedModel", LlamaForCausalLM(config).eval())
    recomputed = checkpointed_layers(model) if recompute else []
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    prompt, answer = length // 4, length - length // 4 - LATENTS + 1
    shape = Shape("", hidden, layers, 4, 2, 4 * hidden, vocabulary)
    load = Load(shape, rows, (prompt, prompt), LATENTS, (answer, answer), 1, 2**20, CHUNK)
    rollouts = rollouts_of(load)
    ours(model, rollouts[:1], load)  # makes what is made once
    gc.collect()
    give_back(torch.device("cpu"))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the mark begins anew
    before = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    with recomputing(recomputed):
        ours(model, rollouts, load)
    each = activations_of(model, recomputed=bool(recomputed), chunk_elements=CHUNK)
    return {"measured": high_water() - before, "estimated": each.bytes(rows * length, length)}


def main() -> None:
    """Say what each shape takes."""
    torch.set_num_threads(1)
    for shape in json.loads(sys.argv[1]):
        print(json.dumps(measured(*shape)))  # noqa: T201, the parent reads it


if __name__ == "__main__":
    main()
