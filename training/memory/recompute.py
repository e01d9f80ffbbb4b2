"""Activation checkpointing: layers that are recomputed in the backward pass, for less memory and a third more time."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


def checkpointed_layers(model: PreTrainedModel) -> list[GradientCheckpointingLayer]:
    """Make a model's layers able to be recomputed in the backward pass, and return them.

    Raises:
        ValueError: the model cannot.

    """
    if not model.supports_gradient_checkpointing:
        raise ValueError(f"{type(model).__name__} does not support activation checkpointing: switch it off")
    older = getattr(model, "gradient_checkpointing_enable", None)  # its name before transformers 5.23
    enable = getattr(model, "activation_checkpointing_enable", older)
    cast("Any", enable)({"use_reentrant": False})
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


@contextmanager
def recomputing(layers: Sequence[GradientCheckpointingLayer]) -> Iterator[None]:
    """Recompute these layers for a while. Only they are told that they train: dropout stays off.

    After it they are as they were: a model that learns may answer too, and a layer that is recomputed keeps no cache.
    """
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
