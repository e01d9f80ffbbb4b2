"""What the engine must know of a model before it can serve it, found by looking, not by a table of architectures.

A forward of one token shows what each layer keeps; the configuration says which layers see a window. What cannot be
served through slots (recurrent state, chunked attention, encoders) is refused at load with a reason. The proof that a
model does work through slots is `app.engine.lane.Lane.prove`, which compares logits.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from app.decoder.cache import LayerShape, PlaneShape
from app.decoder.masks import FULL, SLIDING
from training.models.policy import Policy, embedding
from training.models.rope import ropes


class UnsupportedModel(ValueError):
    """The engine cannot serve this model; the message says why."""


@dataclass(frozen=True, slots=True)
class Anatomy:
    """Shape of a model as the cache and the masks need it."""

    layers: tuple[LayerShape, ...]  # what each layer keeps of a position
    kinds: frozenset[str]  # kinds of attention among the layers: FULL, SLIDING
    window: int | None  # positions that a sliding layer sees
    vocabulary: int  # ids with an input embedding and a logit
    columns: int  # V, columns of the logits
    positions: int | None  # longest sequence served, see `positions_of`; None when the model names none


def examine(policy: Policy) -> Anatomy:
    """Look at a model.

    Raises:
        UnsupportedModel: it keeps something else than keys and values per position.

    """
    config: Any = policy.model.config.get_text_config(decoder=True)
    kinds, window = _attention(config)
    cache = Cache(layer_class_to_replicate=DynamicLayer)
    ids = torch.zeros((1, 1), dtype=torch.long, device=policy.device)
    with torch.inference_mode():
        try:
            output: Any = policy.model(input_ids=ids, past_key_values=cache, use_cache=True)
            layers = tuple(_layer(layer) for layer in cache.layers)
        except (ValueError, AttributeError, NotImplementedError) as error:
            raise UnsupportedModel(
                f"{type(policy.model).__name__} does not keep plain keys and values per layer ({error}); "
                "choose a decoder with full or sliding-window attention"
            ) from error
    expected = config.num_hidden_layers
    if len(layers) != expected:
        raise UnsupportedModel(f"{len(layers)} of {expected} layers keep keys and values; shared caches are not served")
    table_VD = embedding(policy).weight
    vocabulary = min(int(output.logits.shape[-1]), table_VD.shape[0])
    return Anatomy(layers, kinds, window, vocabulary, int(output.logits.shape[-1]), positions_of(config))


def positions_of(config: Any) -> int | None:
    """Longest sequence that is served: what the model was made for; None when it names none.

    A LongRoPE model (Phi-3) turns all positions of a sequence by other frequencies once it is longer than those it was
    first trained for, so keys that were kept would have to be computed again, and rows of one batch would differ. It is
    served up to there, where it is exactly the model.
    """
    longest: int | None = getattr(config, "max_position_embeddings", None)
    first = [one["original_max_position_embeddings"] for one in ropes(config) if one.get("rope_type") == "longrope"]
    return min([*first, *([longest] if longest else [])], default=None)


def probe_ids(anatomy: Anatomy, limit: int) -> Tensor:
    """Make fixed ids [1, T] for a forward that shows a model is sound, past the sliding window where that is short."""
    window = anatomy.window if anatomy.window is not None and anatomy.window <= 256 else 0
    count = min(limit, 16 + window)
    return ((torch.arange(count) * 7919 + 13) % anatomy.vocabulary)[None]


def _attention(config: Any) -> tuple[frozenset[str], int | None]:
    """Kinds of attention layers and the window, from the configuration."""
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if types is None:
        types = [FULL if window is None else SLIDING]
    kinds = frozenset(types)
    if unknown := kinds - {FULL, SLIDING}:
        raise UnsupportedModel(
            f"layers of kind {sorted(unknown)} are not served; choose a decoder with full or sliding-window attention"
        )
    if SLIDING in kinds and not isinstance(window, int):
        raise UnsupportedModel("the model has sliding-window layers but its configuration names no sliding_window")
    return kinds, window if SLIDING in kinds else None


def _layer(layer: Any) -> LayerShape:
    return LayerShape(_plane(layer.keys), _plane(layer.values))


def _plane(states_1H1D: Tensor | None) -> PlaneShape:
    if states_1H1D is None or states_1H1D.ndim != 4:
        raise UnsupportedModel("a layer keeps no keys and values of its own; shared caches are not served")
    return PlaneShape(states_1H1D.shape[1], states_1H1D.shape[3], states_1H1D.dtype, states_1H1D.device)
