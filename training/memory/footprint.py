"""What learning takes in memory, in bytes, and how large a micro-batch the free memory holds.

Weights, masters, gradients, moments and copies are counted. Activations are estimated from the shapes of stock layers:
the high-water mark of a backward pass, rather too high than too low (the tests say by how much). Works on a model
without weights (torch's `meta` device) as on one with them. Leaves out who is asked what is free
(`training.memory.room`, `app.models.host`) and how all this is told (`app.models.memory`).

Axes: D hidden size, V vocabulary.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from training.models.lora import experts_of

MOST_POSITIONS: Final = 16_384  # of a micro-batch that is sized by itself: more of them fill no device better
LEAST_POSITIONS: Final = 64  # below it only single rollouts are left
_SHARE: Final = 0.5  # of the free memory that activations may take: others live there too, and they are an estimate
_FLOAT = 4  # bytes of a float32
_PER_OUTPUT = 2  # numbers kept per output of a linear layer: it, and what the next operation makes of it
_PER_HIDDEN = 6  # numbers kept per layer and hidden unit, in float32: norms and residuals
_PER_SCORE = 3  # numbers kept per pair of positions and head where attention is eager, in float32
_CAPPED = 3  # more of them where scores are capped
_RECOMPUTED = 3  # a layer that is recomputed takes this many times what it would have kept, for a while
_PER_LOGIT = 3  # numbers per logit of a chunk: raw, scaled, and their gradient


@dataclass(frozen=True, slots=True)
class Activations:
    """What a micro-batch takes until its backward pass is over."""

    position: int  # bytes per padded position
    pair: int  # bytes per padded position and position of the longest row: scores of eager attention, else 0
    scored: int  # bytes per position whose logits exist at once
    chunk: int  # most such positions
    head: int  # bytes of the output layer's gradient, on its way to the others

    def bytes(self, positions: int, longest: int) -> int:
        """Add them up for a micro-batch whose longest rollout has so many positions."""
        pairs = self.pair * min(longest, positions)
        return self.head + positions * (self.position + pairs) + self.scored * min(positions, self.chunk)


@dataclass(frozen=True, slots=True)
class Learned:
    """The weights that learn; of what is sharded, one process's part.

    Example: `Learned(number=134_515_008, item=4, own=True, idle=0)`.
    """

    number: int  # of them, a tied one once
    item: int  # bytes of one
    own: bool  # whether they are float32, their own masters
    idle: int  # how many of them never have a gradient, and so no moments


@dataclass(frozen=True, slots=True)
class Held:
    """What an update holds beside activations, in bytes."""

    weights: int  # of the model that learns, and of what is in memory beside it
    masters: int  # float32 copies of weights that are not float32
    gradients: int  # of all micro-batches in float32, and of one in the weights' own dtype
    moments: int  # AdamW's two
    undo: int  # copies of masters and moments, from the first step on; 0 where a failed update is not taken back

    def learning(self, *, several: bool) -> int:
        """Bytes held while gradients are added up, in an update of one optimizer step or of several."""
        return self.weights + self.masters + self.moments + self.gradients + (self.undo if several else 0)

    def most(self, *, several: bool) -> int:
        """Bytes held at most: the copies of one step come as its gradients go, those of a next one are on top."""
        return max(self.learning(several=several), self.learning(several=False) - self.gradients + self.undo)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an update will take.

    Example: a model of 135 million float32 weights, with `undo`: 0.54 GB of weights, as much of gradients, 1.08 of
    moments, 1.61 of copies.
    """

    held: Held
    activations: int  # bytes, of a micro-batch
    positions: int  # padded positions of a micro-batch
    largest: int  # positions of the largest there may be: a longer rollout is one by itself
    several: bool  # whether an update takes more than one optimizer step
    free: int  # bytes that the device had left when this was planned

    @property
    def most(self) -> int:
        """Bytes at most."""
        return self.held.most(several=self.several) + self.activations


def held_by(learned: Learned, *, weights: int, undo: bool) -> Held:
    """Count what an update holds.

    Args:
        learned: what learns.
        weights: bytes of all weights in memory.
        undo: whether a failed update is taken back.

    """
    moments = 2 * _FLOAT * (learned.number - learned.idle)
    return Held(
        weights=weights,
        masters=0 if learned.own else _FLOAT * learned.number,
        gradients=learned.number * (_FLOAT + (0 if learned.own else learned.item)),
        moments=moments,
        undo=_FLOAT * learned.number + moments if undo else 0,
    )


def activations_of(
    model: PreTrainedModel, *, recomputed: bool, chunk_elements: int, item: int | None = None
) -> Activations:
    """Estimate what a micro-batch takes, from the shapes of a model.

    Args:
        model: with weights or without; of adapters' layers only what they are on counts.
        recomputed: whether layers are recomputed in the backward pass.
        chunk_elements: most logits at once (`training.replay.ReplayConfig`).
        item: bytes of a number of its hidden states; None: of its weights.

    """
    item = item or next(model.parameters()).itemsize
    config: Any = model.config.get_text_config()
    layers, hidden = int(config.num_hidden_layers), int(config.hidden_size)
    outputs = sum(one.out_features for one in _linears(model))
    routed = (getattr(config, "num_experts_per_tok", 0) or 0) if experts_of(model.base_model) else 0
    width = int(getattr(config, "moe_intermediate_size", 0) or config.intermediate_size) if routed else 0
    position = item * (_PER_OUTPUT * outputs + 5 * routed * width * layers) + _FLOAT * _PER_HIDDEN * hidden * layers
    eager = config._attn_implementation == "eager"  # it keeps the scores of every pair of positions
    kept = _PER_SCORE + (_CAPPED if getattr(config, "attn_logit_softcapping", None) else 0)
    pair = _FLOAT * kept * int(config.num_attention_heads) * layers if eager else 0
    if recomputed and layers > _RECOMPUTED:
        position = item * hidden * layers + _RECOMPUTED * position // layers
        pair = _RECOMPUTED * pair // layers
    vocabulary = int(config.vocab_size)
    return Activations(
        position=position,
        pair=pair,
        scored=_PER_LOGIT * _FLOAT * vocabulary,
        chunk=max(1, chunk_elements // vocabulary),
        head=_FLOAT * vocabulary * hidden,
    )


def planned(
    held: Held, each: Activations, free: int, *, longest: int, several: bool, there: int = 0, positions: int = 0
) -> Plan:
    """Plan an update, with micro-batches as large as what is free holds.

    Their size is a power of two, so that a little more or less free memory makes no difference to any sum.

    Args:
        held: what it holds beside activations.
        each: what activations take.
        free: bytes that the device has left.
        longest: positions of the longest rollout.
        several: whether it takes more than one optimizer step.
        there: bytes of `held` that are not free any more.
        positions: of a micro-batch; 0: they are chosen here, between LEAST_POSITIONS and MOST_POSITIONS.

    """
    chosen = positions or MOST_POSITIONS
    room = _SHARE * (free - (held.learning(several=several) - there))
    while not positions and chosen > LEAST_POSITIONS and each.bytes(chosen, longest) > room:
        chosen //= 2
    largest = max(chosen, longest)
    return Plan(held, each.bytes(largest, longest), chosen, largest, several, free)


def bytes_of(models: Iterable[PreTrainedModel]) -> int:
    """Bytes of the weights of models, what they share once; of sharded ones, this process's part."""
    weights = [weight for model in models for weight in model.parameters()]
    local = [one.to_local() if isinstance(one, DTensor) else one for one in weights]
    return sum({one.data_ptr(): one.nbytes for one in local}.values())


def _linears(model: PreTrainedModel) -> list[nn.Linear]:
    """Give the linear layers of the backbone, without those of adapters."""
    named = model.base_model.named_modules()
    return [one for name, one in named if isinstance(one, nn.Linear) and "lora_" not in name]
