"""Low-rank adapters (Hu et al., arXiv:2106.09685) through peft: the learner's model has them, the policy's is merged.

The policy stays a stock model, so all that samples from it, measures it or publishes it is as with full fine-tuning.
The learner gets a copy with an adapter on every linear layer but the head; all else of it is the policy's own storage.
`merge` writes W + (alpha / rank) B A into the policy, always from the first weights W: nothing accumulates. Into
bfloat16 it is rounded by thresholds (`training.rounding`), for to the nearest most of a small change would be lost and
the policy would not be the one that learned. Leaves out learning itself (`training.update`).

Axes: O outputs and I inputs of a layer.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from training.rounding import dithered

ADAPTER: Final = "adapter"  # directory within a checkpoint, in peft's layout
_WEIGHTS: Final = "adapter_model.safetensors"
_CONFIG: Final = "adapter_config.json"
_NAME: Final = "default"  # of the only adapter
_PREFIX: Final = "base_model.model."  # how peft names weights in its files
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
            ValueError: peft is missing.

        """
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ValueError("adapters need peft: pip install 'lepo-service[lora]'") from error
        self._served = served
        twin = copy.deepcopy(served).requires_grad_(requires_grad=False)
        targets = [name for name, module in twin.base_model.named_modules() if isinstance(module, nn.Linear)]
        self._config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,  # type: ignore[arg-type]  # peft divides by it: a float does
            target_modules=[f"{twin.base_model_prefix}.{name}" for name in targets],
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
        adapted = {name for name, _, _ in self._pairs()}
        served = {
            name: one for name, one in self._served.named_parameters() if name.removesuffix(".weight") not in adapted
        }
        for name, parameter in self.model.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
                parameter.requires_grad_()
            elif name.replace(".base_layer", "") in served:
                parameter.data = served[name.replace(".base_layer", "")].data

    def _pairs(self) -> Iterator[tuple[str, Any, nn.Linear]]:
        """Every adapted layer by its stock name, beside the policy's layer."""
        from peft.tuners.lora import LoraLayer

        for name, module in self.model.named_modules():
            if isinstance(module, LoraLayer):
                layer = self._served.get_submodule(name)
                assert isinstance(layer, nn.Linear)
                yield name, module, layer

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
        for number, (_, adapter, layer) in enumerate(self._pairs()):
            change_OI = adapter.get_delta_weight(_NAME).float()
            rows = max(1, _ROWS_ELEMENTS // change_OI.shape[1])
            for start in range(0, len(change_OI), rows):
                part = slice(start, start + rows)
                first_OI, wish_OI = adapter.base_layer.weight[part], change_OI[part]
                made_OI = _rounded(first_OI.float() + wish_OI, first_OI.dtype, number, start * wish_OI.shape[1])
                layer.weight[part] = made_OI
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
