"""The bound: a loop of bare forwards on the engine's own cache and batch, with nothing drawn and nothing told.

Inputs, positions and masks of every step are made beforehand, so that only the model itself is timed: what the engine
does beyond it (masks, sampling, its bookkeeping, text, sinks) counts against the engine.

Axes: B rows, N steps.
"""

import time

import torch

from app.decoder.anatomy import examine
from app.decoder.cache import BlockPool, PagedCache
from app.decoder.length import Lengths
from app.decoder.masks import Masks
from app.engine.config import EngineConfig
from app.engine.lane import as_kept, quicker
from app.engine.rows import Rows
from training.models.policy import Policy


class BareForward:
    """Steps of B rows that all stand at the same position, as in a batch of equal prompts."""

    def __init__(self, policy: Policy, batch: int, first: int, steps: int) -> None:
        """Make the cache and the N steps; `first` is the position of the first of them."""
        anatomy = as_kept(examine(policy), policy.model, EngineConfig())
        longest = first + steps + 1
        lengths = Lengths(longest, graphed=policy.device.type == "cuda")
        masks = Masks(anatomy.kinds, anatomy.window, lengths.longest, anatomy.layers[0].keys.dtype, policy.device)
        model = quicker(policy.model) or policy.model  # the engine's own forward
        cache = PagedCache(BlockPool(anatomy.layers, 1 + batch * lengths.blocks))
        self._rows = Rows(policy, model, cache, masks, (batch, lengths.blocks), width=1)
        self._table_BT = torch.arange(batch * lengths.blocks, device=policy.device).view(batch, -1) + 1
        self._inputs_B1D = self._rows.embedding(torch.arange(batch, device=policy.device)[:, None]).clone()
        self._steps = []
        for position in range(first, first + steps):
            position_B1 = torch.full((batch, 1), position, device=policy.device)
            length = lengths.bucket(position + 1)
            self._steps.append((position_B1, length, masks(position_B1, length)))

    def steps_per_second(self) -> float:
        """Run all N steps once."""
        with torch.inference_mode():
            self._synchronize()
            began = time.perf_counter()
            for position_B1, length, mask in self._steps:
                self._rows.cache.bind(self._table_BT, position_B1, length)
                self._rows.model(
                    inputs_embeds=self._inputs_B1D,
                    attention_mask=mask,
                    position_ids=position_B1,
                    past_key_values=self._rows.cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
            self._synchronize()
            return len(self._steps) / (time.perf_counter() - began)

    def _synchronize(self) -> None:
        """Wait for the device, once per run: the host may run ahead within it."""
        if self._rows.device.type == "cuda":
            torch.cuda.synchronize(self._rows.device)
