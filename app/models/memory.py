"""What memory a model takes, added up from the shapes of its outline and the settings: bytes, by what they are for.

Weights, keys and values are exact (the tests hold them against what is allocated). Leaves out how what learning takes
is counted and estimated (`app.models.learning`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from app.decoder.anatomy import Anatomy
from app.decoder.cache import BLOCK, blocks_for
from app.decoder.packed import multiplies_bfloat16
from app.engine.config import EngineConfig
from app.engine.room import blocks_wanted
from app.models.host import free
from app.models.learning import USUAL_RANK, learning_of, plan_of
from app.models.outline import Outline
from app.settings import Settings
from training.memory.room import Free

_FLOAT = 4  # bytes of a float32


@dataclass(frozen=True, slots=True)
class Need:
    """One line of the table."""

    what: str
    bytes: int
    words: str
    total: bool = False  # of the lines before it


def serving(outline: Outline, anatomy: Anatomy, settings: Settings) -> list[Need]:
    """Add up what a server takes at most."""
    versions = 2 if settings.swap_mode == "two_versions" else 1
    size = item(settings)
    packed = on_cpu(settings) and settings.packing == "auto" and (size == _FLOAT or multiplies_bfloat16())
    position = per_position(anatomy, _FLOAT if packed else size)
    length = min(settings.max_length, anatomy.positions or settings.max_length)
    config = EngineConfig.from_settings(settings)
    blocks = 1 + blocks_for(settings.cache_tokens) if settings.cache_tokens else blocks_wanted(config, length)
    of_versions = f"{versions} version{'s' * (versions > 1)}"
    needs = [
        Need("serve: weights", versions * outline.parameters * size, f"{of_versions} of {settings.dtype}"),
        Need(
            "serve: keys and values",
            blocks * BLOCK * position,
            f"of {blocks * BLOCK:,} positions, {position:,} bytes each, for all versions; fewer where memory is short",
        ),
    ]
    if packed:
        layers = sum(layer.weight.numel() for layer in outline.linears)
        needs.append(Need("serve: packed layers", versions * layers * size, "LEPO_PACKING=off saves it"))
    swap = Need("serve: a swap", outline.parameters * size, "the next weights, read before they are taken")
    if on_cpu(settings):
        return [*needs, swap, _sum("a server, at most", [*needs, swap])]
    return [*needs, _sum("a server, at most", needs), replace(swap, words=f"{swap.words}: of the host's memory")]


def learning(outline: Outline, settings: Settings, *, rank: int, free: Free = free) -> list[Need]:
    """Add up what a worker takes during an update; `rank` of its adapters, 0: all weights learn."""
    name = f"learn (LoRA, rank {rank})" if rank else "learn (all weights)"
    where = torch.device("cpu" if on_cpu(settings) else "cuda")
    plan = plan_of(outline, replace(learning_of(settings), rank=rank), free(where))
    held = plan.held
    needs = [
        Need(f"{name}: weights", held.weights, "the policy, and its first weights" if rank else "the policy"),
        Need(f"{name}: optimizer", plan.most - held.weights - plan.activations, "gradients, moments and masters"),
        Need(
            f"{name}: activations",
            plan.activations,
            f"about, logits among them; of {plan.largest:,} positions, LEPO_MICRO_BATCH_TOKENS",
        ),
    ]
    return [*needs, _sum(f"a worker, {name}", needs)]


def everything(outline: Outline, anatomy: Anatomy, settings: Settings) -> list[Need]:
    """Give every line there is."""
    ranks = (settings.lora_rank,) if settings.lora_rank else (0, USUAL_RANK)
    return [
        *serving(outline, anatomy, settings),
        *(need for rank in ranks for need in learning(outline, settings, rank=rank)),
    ]


def item(settings: Settings) -> int:
    """Bytes of one weight."""
    return int(getattr(torch, settings.dtype).itemsize)


def per_position(anatomy: Anatomy, size: int) -> int:
    """Bytes that one position of one row takes, over all layers, in numbers of so many bytes."""
    planes = (plane for layer in anatomy.layers for plane in (layer.keys, layer.values))
    return sum(plane.heads * plane.size for plane in planes) * size


def on_cpu(settings: Settings) -> bool:
    """Whether the model lies on a CPU."""
    return settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available())


def _sum(what: str, needs: Sequence[Need]) -> Need:
    return Need(what, sum(need.bytes for need in needs), "", total=True)
