"""What learning will take of memory, from a model's outline and the settings, before anything is loaded.

What is held is counted and activations are estimated by the functions that a learner itself plans with
(`training.memory.footprint`). Leaves out what serving takes (`app.models.memory`) and what is free (`app.models.host`).
"""

from dataclasses import dataclass
from typing import Final, cast

import torch
from torch import Tensor, nn

from app.models.outline import Outline
from app.settings import Settings
from training.memory.footprint import Learned, Plan, activations_of, held_by, planned
from training.replay import ReplayConfig

USUAL_RANK: Final = 16  # of adapters, where nobody names one
_FLOAT = 4  # bytes of a float32


@dataclass(frozen=True, slots=True)
class Learning:
    """How a model is to learn, as far as its memory goes."""

    dtype: str  # of the weights, by torch's name
    rank: int  # of adapters; 0: all weights learn
    recomputed: bool  # whether layers are recomputed in the backward pass
    reference: bool  # whether the first weights stay in memory for the KL term
    undo: bool  # whether an update that fails is taken back
    several: bool  # whether an update takes more than one optimizer step
    longest: int  # positions of the longest rollout
    positions: int  # of a micro-batch; 0: by what is free


def learning_of(settings: Settings) -> Learning:
    """Say how the service's worker learns."""
    return Learning(
        dtype=settings.dtype,
        rank=settings.lora_rank,
        recomputed=settings.activation_checkpointing,
        reference=settings.kl_beta > 0,
        undo=False,  # a worker drops what an update failed on (`worker.resident`)
        several=settings.epochs * settings.minibatches > 1,
        longest=settings.max_length,
        positions=settings.micro_batch_tokens,
    )


def plan_of(outline: Outline, how: Learning, free: int) -> Plan:
    """Plan an update of a model that is not loaded yet.

    Args:
        outline: of the model.
        how: it learns.
        free: bytes that its device has left.

    """
    item = int(getattr(torch, how.dtype).itemsize)
    copied = sum(one.numel() for one in reached(outline)) if how.rank else 0
    weights = (outline.parameters * (2 if how.reference else 1) + copied) * item
    if how.rank:
        number = adapters(outline, how.rank)
        learned, weights = Learned(number, _FLOAT, own=True, idle=0), weights + number * _FLOAT
    else:
        learned = Learned(outline.parameters, item, own=item == _FLOAT, idle=still(outline))
    chunk = ReplayConfig().chunk_elements
    each = activations_of(outline.model, recomputed=how.recomputed, chunk_elements=chunk, item=item)
    held = held_by(learned, weights=weights, undo=how.undo)
    return planned(held, each, free, longest=how.longest, several=how.several, positions=how.positions)


def words(plan: Plan) -> str:
    """Tell a plan in a line."""
    held = plan.held
    parts = {
        "weights": held.weights,
        "float32 masters": held.masters,
        "gradients": held.gradients,
        "moments": held.moments,
        "copies to go back to": held.undo,
        f"activations of {plan.largest:,} positions": plan.activations,
    }
    told = ", ".join(f"{name} {amount(size)}" for name, size in parts.items() if size)
    return f"{told}: at most {amount(plan.most)} of {amount(plan.free)} free"


def amount(size: int) -> str:
    """Tell bytes as a person reads them."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


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
