"""A stock causal LM taken apart: embedding, backbone, head.

The model's own `forward` gives logits for the same positions of every row and all at once. Learning needs them for
scattered positions and a chunk at a time, so the backbone and the head run apart here. Some models scale or cap their
logits inside `forward`; `take_apart` reads that from the configuration and proves it on a canary, once, at load.

Leaves out adapters that wrap the whole model: hand over the inner causal LM (`get_base_model()` of peft).

Axes: B rows, S positions, N chosen positions, D hidden size, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from training.shared_prompts import Layout, Sharing, sharing_of

_MULTIPLIERS = ("logit_scale", "lm_head_multiplier", "output_multiplier")  # Cohere, Falcon-H1, Muse
_CANARY_LENGTH = 8
_HALF_TOLERANCE = 2e-2  # of the largest logit, for bfloat16 and float16
_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}


@dataclass(frozen=True, slots=True, eq=False)
class CausalLM:
    """A model with what it does to the output of its last linear layer.

    Example: Gemma 2 has `scale=1.0, softcap=30.0`, most models `scale=1.0, softcap=None`. Made by `take_apart`.
    """

    model: PreTrainedModel
    scale: float = 1.0  # multiplies the logits
    softcap: float | None = None  # c * tanh(logits / c), after the scale; None: no cap
    sharing: Sharing | None = None  # how rollouts of one prompt share a row; None: this model cannot

    @property
    def embedding(self) -> nn.Embedding:
        """Input embedding; its own scaling, if any, is inside its forward."""
        return cast("nn.Embedding", self.model.get_input_embeddings())

    @property
    def device(self) -> torch.device:
        """Where inputs enter."""
        return self.embedding.weight.device

    @property
    def output_layer(self) -> nn.Linear:
        """Last linear layer, [V, D]."""
        return _output_layer(self.model)

    @property
    def vocabulary(self) -> int:
        """V, rows of the output layer."""
        return int(self.output_layer.weight.shape[0])

    def hidden(self, inputs_RSD: Tensor, layout: Layout | None = None) -> Tensor:
        """Run the backbone over right-padded rows under causal attention; gives the final hidden states.

        Args:
            inputs_RSD: [R, S, D].
            layout: of rows that several rollouts share; None: padding stands after everything a row attends to, and
                positions count from 0 in every row, so no mask is passed.

        Returns:
            [R, S, D].

        """
        if layout is None:
            output = self.model.base_model(inputs_embeds=inputs_RSD, use_cache=False)
        else:
            seen_R1SS, position_RS = layout.seen_R1SS, layout.position_RS
            output = self.model.base_model(
                inputs_embeds=inputs_RSD, attention_mask=seen_R1SS, position_ids=position_RS, use_cache=False
            )
        return cast("Tensor", output.last_hidden_state)

    def logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits as the model's own `forward` gives them.

        Returns:
            [N, V] in the weights' dtype.

        """
        return self.finished(self.output_layer(hidden_ND))

    def finished(self, raw_NV: Tensor) -> Tensor:
        """Turn the output layer's result into logits; the input itself where the model does nothing to it."""
        if self.scale != 1.0:
            raw_NV = raw_NV * self.scale
        if self.softcap is not None:
            raw_NV = (raw_NV / self.softcap).tanh() * self.softcap
        return raw_NV

    def finished_backward(self, raw_NV: Tensor, grad_NV: Tensor) -> Tensor:
        """Carry a gradient of the logits back to the output layer's result."""
        if self.scale == 1.0 and self.softcap is None:
            return grad_NV
        with torch.enable_grad():
            leaf_NV = raw_NV.detach().requires_grad_()
            return torch.autograd.grad(self.finished(leaf_NV), leaf_NV, grad_NV)[0]


@torch.no_grad()
def take_apart(model: PreTrainedModel) -> CausalLM:
    """Find the head that reproduces `model(...).logits` on a canary prompt; run once when a model is loaded.

    Raises:
        ValueError: none does, so this model cannot be learned from.

    """
    if _output_layer(model) is None or model.base_model is model:
        raise ValueError(f"{type(model).__name__} has no separate output layer; choose a causal LM with an lm_head")
    plain = CausalLM(model)
    ids_BS = torch.arange(_CANARY_LENGTH, device=plain.device)[None] % plain.embedding.num_embeddings
    inputs_BSD = plain.embedding(ids_BS)
    truth_SV = cast("Tensor", cast("nn.Module", model)(inputs_embeds=inputs_BSD, use_cache=False).logits)[0]
    hidden_SD = plain.hidden(inputs_BSD)[0]
    misses = [(_miss(parts.logits(hidden_SD), truth_SV), parts) for parts in _candidates(model)]
    miss, best = min(misses, key=lambda pair: pair[0])
    if not miss <= _TOLERANCE.get(hidden_SD.dtype, _HALF_TOLERANCE):
        raise ValueError(
            f"{type(model).__name__} post-processes its logits in a way that is not known here (nearest: scale "
            f"{best.scale}, softcap {best.softcap}, off by {miss:.2g} of the largest logit): "
            "add its rule to training/models/head.py"
        )
    return replace(best, sharing=_proven(best, inputs_BSD[0]))


def _proven(model: CausalLM, inputs_SD: Tensor) -> Sharing | None:
    """Give how prompts are shared if two rollouts that share one are, on a canary, what they are apart; else None."""
    sharing = sharing_of(model.model)
    if sharing is None:
        return None
    half, quarter = _CANARY_LENGTH // 2, _CANARY_LENGTH // 4
    part_1S = torch.tensor([0] * half + [1] * quarter + [2] * quarter, device=model.device)[None]
    position_S = torch.arange(_CANARY_LENGTH, device=model.device)
    position_S = torch.where(part_1S[0] == 2, position_S - quarter, position_S)
    other_S = (part_1S[0] != 1).nonzero().squeeze(1)
    try:
        together_SD = model.hidden(inputs_SD[None], Layout.of(part_1S, position_S[None]))[0]
    except (RuntimeError, TypeError, ValueError):  # it takes no such mask, and says so in its own way
        return None
    apart_SD = model.hidden(inputs_SD[None, : half + quarter])[0]
    other_SD = model.hidden(inputs_SD[None, other_S])[0]
    miss = max(_miss(together_SD[: half + quarter], apart_SD), _miss(together_SD[other_S], other_SD))
    return sharing if miss <= _TOLERANCE.get(together_SD.dtype, _HALF_TOLERANCE) else None


def _output_layer(model: PreTrainedModel) -> nn.Linear:
    return cast("nn.Linear", cast("Any", model).get_output_embeddings())


def _candidates(model: PreTrainedModel) -> Iterator[CausalLM]:
    """Heads that the configuration speaks of, the plain one last: the first of equals wins."""
    config = model.config.get_text_config()
    scales = [float(value) for name in _MULTIPLIERS if (value := getattr(config, name, None)) is not None]
    scaling = getattr(config, "logits_scaling", None)  # Granite divides by it, HyperCLOVA X multiplies
    if scaling is not None:
        scales += [1.0 / float(scaling), float(scaling)]
    cap = getattr(config, "final_logit_softcapping", None)
    for scale in [*scales, 1.0]:
        if cap is not None:
            yield CausalLM(model, scale, float(cap))
        yield CausalLM(model, scale)


def _miss(logits_SV: Tensor, truth_SV: Tensor) -> float:
    """Largest difference as a share of the largest logit; infinite when it cannot be told."""
    if logits_SV.shape != truth_SV.shape:
        return float("inf")
    miss = (logits_SV.double() - truth_SV.double()).abs().max() / truth_SV.double().abs().max().clamp(min=1e-12)
    return float(miss.nan_to_num(nan=float("inf")))
