"""What memory a model takes, added up from the shapes of its outline and the settings: bytes, by what they are for.

Weights, keys and values, optimizer state are exact (the tests hold them against what is allocated); activations are
an estimate of what the stock layers keep for the backward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from app.decoder.anatomy import Anatomy
from app.engine.lane import STAGED
from app.engine.prefix import BLOCK
from app.models.outline import Outline
from app.settings import Settings

_MASTER = 4  # bytes of a float32
_LEARNED = 7  # float32 per weight that learns: master, gradient, two moments, and copies of all but the gradient
_MOMENTS = 4  # of these: two moments and their copies, which a weight has once it had a gradient
_CHUNK = 2**26  # logits held at once (`training.replay.ReplayConfig`)
_RANK = 16  # of adapters, where the settings name none


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
    size, position = item(settings), per_position(anatomy, settings)
    length = min(settings.max_length, anatomy.positions or settings.max_length)
    rows = settings.slots + min(STAGED, settings.slots)
    blocks = settings.prefix_cache_tokens // BLOCK
    of_versions = f"{versions} version{'s' * (versions > 1)}"
    needs = [
        Need("serve: weights", versions * outline.parameters * size, f"{of_versions} of {settings.dtype}"),
        Need(
            "serve: keys and values",
            versions * rows * length * position,
            f"{rows} rows of {length} positions, {position:,} bytes each, {of_versions}",
        ),
        Need(
            "serve: prefix cache", versions * blocks * BLOCK * position, f"{blocks * BLOCK:,} positions of each version"
        ),
        Need("serve: a swap", outline.parameters * size, "the next weights, read before they are taken"),
    ]
    if on_cpu(settings) and settings.packing == "auto" and settings.dtype == "float32":
        packed = sum(layer.weight.numel() for layer in outline.linears)
        needs.append(Need("serve: packed layers", versions * packed * _MASTER, "LEPO_PACKING=off saves it"))
    return [*needs, _sum("a server, at most", needs)]


def learning(outline: Outline, settings: Settings, *, rank: int) -> list[Need]:
    """Add up what a worker takes during an update; `rank` of its adapters, 0: all weights learn."""
    name = f"learn (LoRA, rank {rank})" if rank else "learn (all weights)"
    size = item(settings)
    learned = adapters(outline, rank) if rank else outline.parameters
    copied = sum(one.numel() for one in reached(outline)) if rank else 0
    own = rank > 0 or settings.dtype == "float32"  # what learns is its own master
    whose = "the policy, and its first weights" if rank else "the policy"
    needs = [
        Need(
            f"{name}: weights",
            (outline.parameters + copied) * size,
            whose,
        ),
        Need(
            f"{name}: optimizer",
            learned * (_LEARNED * _MASTER + (0 if own else size))
            - (0 if rank else _MOMENTS * _MASTER * still(outline)),
            f"of {learned:,} weights",
        ),
        Need(f"{name}: activations", activations(outline, settings), "about; LEPO_MICRO_BATCH_TOKENS"),
        Need(f"{name}: logits", 3 * _CHUNK * _MASTER, "about, a chunk at a time"),
    ]
    if settings.kl_beta:
        needs.append(Need(f"{name}: reference", outline.parameters * size, "LEPO_KL_BETA is not 0"))
    return [*needs, _sum(f"a worker, {name}", needs)]


def everything(outline: Outline, anatomy: Anatomy, settings: Settings) -> list[Need]:
    """Give every line there is."""
    ranks = (settings.lora_rank,) if settings.lora_rank else (0, _RANK)
    return [
        *serving(outline, anatomy, settings),
        *(need for rank in ranks for need in learning(outline, settings, rank=rank)),
    ]


def item(settings: Settings) -> int:
    """Bytes of one weight."""
    return int(getattr(torch, settings.dtype).itemsize)


def per_position(anatomy: Anatomy, settings: Settings) -> int:
    """Bytes that one position of one row takes, over all layers."""
    planes = (plane for layer in anatomy.layers for plane in (layer.keys, layer.values))
    return sum(plane.heads * plane.size for plane in planes) * item(settings)


def adapters(outline: Outline, rank: int) -> int:
    """Count the weights of adapters."""
    layers = sum(rank * (layer.in_features + layer.out_features) for layer in outline.adapted)
    return layers + sum(rank * one.shape[0] * (one.shape[1] + one.shape[2]) for one in outline.experts)


def still(outline: Outline) -> int:
    """Count the weights that never have a gradient, and so no moments: input embeddings of their own."""
    table = cast("nn.Embedding", outline.model.get_input_embeddings()).weight
    head = cast("nn.Linear | None", outline.model.get_output_embeddings())
    return 0 if head is not None and head.weight is table else table.numel()


def reached(outline: Outline) -> list[Tensor]:
    """Give the weights that adapters go on."""
    return [*(layer.weight for layer in outline.adapted), *outline.experts]


def activations(outline: Outline, settings: Settings) -> int:
    """Estimate what a micro-batch keeps for its backward pass: what goes into the layers' operations."""
    config = outline.model.config.get_text_config()
    layers, hidden = int(config.num_hidden_layers), int(config.hidden_size)
    if settings.activation_checkpointing:
        return settings.micro_batch_tokens * hidden * layers * item(settings)
    inner = sum(layer.out_features for layer in outline.adapted)
    routed = getattr(config, "num_experts_per_tok", 0) or 0
    experts = 5 * routed * layers * (getattr(config, "moe_intermediate_size", 0) or config.intermediate_size)
    kept = 2 * inner + 6 * hidden * layers + (experts if routed else 0)
    seen = int(settings.micro_batch_tokens * kept * item(settings))
    if outline.attention == "eager":  # it keeps the scores of every pair of positions
        length = min(settings.max_length, settings.micro_batch_tokens)
        seen += 4 * layers * config.num_attention_heads * settings.micro_batch_tokens * length * _MASTER
    return seen


def on_cpu(settings: Settings) -> bool:
    """Whether the model lies on a CPU."""
    return settings.device == "cpu" or (settings.device == "auto" and not torch.cuda.is_available())


def _sum(what: str, needs: Sequence[Need]) -> Need:
    return Need(what, sum(need.bytes for need in needs), "", total=True)
