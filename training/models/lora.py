"""Low-rank adapters (Hu et al., arXiv:2106.09685) through peft: the learner's model has them, the policy's is merged.

The policy stays a stock model, so all that samples from it, measures it or publishes it is as with full fine-tuning.
The learner gets a copy with an adapter on every linear layer but the head, and on every expert of a mixture; all else
of it (routers too) is the policy's own storage. A model whose layers are mostly of another make is refused. `merge`
writes W + (alpha / rank) B A into the policy, always from the first weights W: nothing accumulates. Into bfloat16 it is
rounded by thresholds (`training.models.rounding`), for to the nearest most of a small change would be lost and the
policy would not be the one that learned. Leaves out learning itself (`training.update`).

Axes: O outputs (of all experts) and I inputs of a layer.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from training.models.rounding import dithered

ADAPTER: Final = "adapter"  # directory within a checkpoint, in peft's layout
_WEIGHTS: Final = "adapter_model.safetensors"
_CONFIG: Final = "adapter_config.json"
_NAME: Final = "default"  # of the only adapter
_PREFIX: Final = "base_model.model."  # how peft names weights in its files
_LEAST_REACH: Final = 0.5  # share of the layers' weights that must have adapters
_ROWS_ELEMENTS: Final = 2**24  # largest part of a layer that is merged at once


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Size and scale of the adapters.

    Raises:
        ValueError: a value is out of its range.

    """

    rank: int  # > 0
    alpha: float  # > 0; an adapter's product is scaled by alpha / rank

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora rank must be 1 or more, got {self.rank}")
        if not self.alpha > 0:
            raise ValueError(f"lora alpha must be above 0, got {self.alpha}")


def made_of(directory: Path) -> tuple[str, LoraSettings]:
    """Read where the first weights of a checkpoint's adapters came from, as `Adapted` was told, and their settings."""
    config = json.loads((directory / ADAPTER / _CONFIG).read_text(encoding="utf-8"))
    return config["base_model_name_or_path"], LoraSettings(config["r"], config["lora_alpha"])


def adaptable(backbone: nn.Module) -> tuple[list[str], list[str]]:
    """Name the linear layers of a backbone, and the parameters that hold all experts of a mixture, [E, ...].

    Raises:
        ValueError: together they are less than half of the weights (embeddings not counted), so that adapters would
            leave most of the model as it is, silently.

    """
    linear = {name: one.weight for name, one in backbone.named_modules() if isinstance(one, nn.Linear)}
    experts = experts_of(backbone)
    embedded = {one.weight for one in backbone.modules() if isinstance(one, nn.Embedding)}
    whole = sum(one.numel() for one in backbone.parameters() if one.ndim > 1 and one not in embedded)
    reached = sum(one.numel() for one in (*linear.values(), *experts.values()))
    if reached < _LEAST_REACH * whole:
        raise ValueError(
            f"adapters would reach {reached / whole:.0%} of the weights of {type(backbone).__name__}, whose layers are "
            "no linear ones: set the adapters' rank to 0, so that all weights learn"
        )
    return list(linear), list(experts)


def experts_of(backbone: nn.Module) -> dict[str, nn.Parameter]:
    """Give the parameters that hold all experts of a mixture, [E, ...], by name."""
    return {name: one for name, one in backbone.named_parameters() if one.ndim == 3 and _own(backbone, name)}


def _own(backbone: nn.Module, name: str) -> bool:
    """Whether a parameter belongs to the model's own code, not to a layer of torch (a convolution is no expert)."""
    return not type(backbone.get_submodule(name.rpartition(".")[0])).__module__.startswith("torch.")


class Adapted:
    """A policy's model and its twin with adapters."""

    def __init__(self, served: PreTrainedModel, settings: LoraSettings, source: str, seed: int = 0) -> None:
        """Make the twin; its adapters change nothing yet.

        Args:
            served: stock model, the first weights W; `merge` changes it in place.
            settings: of the adapters.
            source: where W came from, as written into the adapter's configuration.
            seed: of the adapters' random half.

        Raises:
            ValueError: peft is missing, or most of the model's weights can have no adapters.

        """
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ValueError("adapters need peft: pip install 'lepo-service[lora]'") from error
        self._served = served
        twin = copy.deepcopy(served).requires_grad_(requires_grad=False)
        linear, experts = adaptable(twin.base_model)
        self._config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft divides by it: a float does
            target_modules=[f"{twin.base_model_prefix}.{name}" for name in linear],
            target_parameters=[f"{twin.base_model_prefix}.{name}" for name in experts] or None,
            base_model_name_or_path=source,
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(self._config, twin, adapter_name=_NAME)  # in place
        self.model = twin
        self._share()

    def _share(self) -> None:
        """Let whatever has no adapter be the policy's own storage, and keep adapters in float32."""
        adapted = {name for name, _, _, _ in self._pairs()}
        served = {name: one for name, one in self._served.named_parameters() if name not in adapted}
        for name, parameter in self.model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
                parameter.requires_grad_()
            elif name.replace(".base_layer", "") in served:
                parameter.data = served[name.replace(".base_layer", "")].data

    def _pairs(self) -> Iterator[tuple[str, Any, Tensor, nn.Parameter]]:
        """Every adapted weight: its stock name, its adapter, its first value, and where the policy has it."""
        from peft.tuners.lora import LoraLayer

        for name, module in self.model.named_modules():
            if isinstance(module, LoraLayer):
                adapter = cast("Any", module)
                within = getattr(adapter, "parameter_name", None) or "weight"
                stock = f"{name.replace('.base_layer', '')}.{within}"
                yield stock, adapter, getattr(adapter.get_base_layer(), within), self._served.get_parameter(stock)

    @property
    def served(self) -> PreTrainedModel:
        """The policy's model, as it was last merged."""
        return self._served

    @torch.no_grad()
    def merge(self) -> float:
        """Write the first weights plus the adapters' products into the policy, added in float32.

        Returns:
            The share of what the adapters say that is lost by rounding to the policy's dtype: 1 - <c, d> / <d, d>, with
            d the change they ask for and c the one that was made; 0 where they ask for none.

        """
        kept = asked = torch.zeros((), dtype=torch.float64)
        for number, (_, adapter, first, served) in enumerate(self._pairs()):
            width = first.shape[-1]
            change_OI, whole_OI = adapter.get_delta_weight(_NAME).float().reshape(-1, width), first.view(-1, width)
            served_OI, rows = served.view(-1, width), max(1, _ROWS_ELEMENTS // width)
            for start in range(0, len(change_OI), rows):
                part = slice(start, start + rows)
                first_OI, wish_OI = whole_OI[part], change_OI[part]
                made_OI = _rounded(first_OI.float() + wish_OI, first_OI.dtype, number, start * width)
                served_OI[part] = made_OI
                kept = kept + ((made_OI.double() - first_OI.double()) * wish_OI).sum().cpu()
                asked = asked + wish_OI.double().square().sum().cpu()
        return 1.0 - float(kept / asked) if asked > 0 else 0.0

    def save(self, directory: Path) -> None:
        """Write the adapters as peft does, into `directory / ADAPTER`; the first weights are not among them."""
        target = directory / ADAPTER
        target.mkdir()
        tensors = {name: one for name, one in self.model.state_dict().items() if "lora_" in name}
        named = {f"{_PREFIX}{name.replace(f'.{_NAME}', '')}": one.cpu().contiguous() for name, one in tensors.items()}
        save_file(named, target / _WEIGHTS, metadata={"format": "pt"})
        self._config.save_pretrained(str(target))

    @torch.no_grad()
    def load(self, directory: Path) -> None:
        """Take over what `save` wrote, and merge it.

        Raises:
            ValueError: the adapters are of another rank or model.

        """
        saved = load_file(directory / ADAPTER / _WEIGHTS)
        mine = {name: one for name, one in self.model.named_parameters() if "lora_" in name}
        names = {f"{_PREFIX}{name.replace(f'.{_NAME}', '')}": one for name, one in mine.items()}
        if {name: one.shape for name, one in saved.items()} != {name: one.shape for name, one in names.items()}:
            raise ValueError(f"the adapters in '{directory}' are of another rank or another model")
        for name, one in saved.items():
            names[name].copy_(one)
        self.merge()


def _rounded(exact_OI: Tensor, dtype: torch.dtype, layer: int, first: int) -> Tensor:
    """Bring a part of a layer into the policy's dtype; `first` is the place of its first weight in the layer."""
    return dithered(exact_OI, layer, first) if dtype == torch.bfloat16 else exact_OI.to(dtype)
