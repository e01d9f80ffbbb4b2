"""One prompt, many answers, one row: a prompt that several rollouts share goes through the model once.

A row holds the prompt and then every rollout's own part (latent steps, lead-out, answer tokens), one after another. A
mask lets each part see the prompt and itself, and each part's positions count on from the prompt's end, so every
position sees what it would in a row of its own: the same function, up to the rounding of sums. The gradient of the
prompt's positions is then the sum over its answers. What is saved is the prompt, once per further rollout; what it
costs are pairs of positions that attention computes and masks.

`training.models.head` proves on a canary that a model takes such rows. Leaves out how rows are filled
(`training.executed`) and which of them go through together (`training.optimization.batches`).

Axes: R rows, S positions.
"""

import inspect
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from training.rollout import Rollout

MOST_SHARED: Final = 8192  # positions of a shared row: its mask has a byte for every pair of them
ALONE: Final = -1  # part of a row that is padding
_WINDOWS: Final = ("sliding_window", "attention_chunk_size")  # what a layer sees of a sequence, where it is less
_PLAIN: Final = frozenset({"full_attention", "sliding_attention", "chunked_attention"})  # layers that a mask rules


@dataclass(frozen=True, slots=True)
class Sharing:
    """What a model can share, and what that costs it."""

    pair: float  # cost of a pair of positions in attention, in units of a position's linear layers
    longest: int  # positions of a rollout, above which a window would hide the prompt's beginning

    def pays(self, prompt: int, own: int, row: int) -> bool:
        """Whether a rollout costs less as one more part of a row than in a row of its own.

        Args:
            prompt: positions of the prompt.
            own: positions of the rollout's own part.
            row: positions of the row so far.

        """
        more = (row + own) ** 2 - row**2 - (prompt + own) ** 2 / 2  # a causal row by itself computes half its pairs
        return prompt > self.pair * more


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Where positions of shared rows stand and what they see."""

    position_RS: Tensor  # int64 [R, S], counted within each rollout
    seen_R1SS: Tensor  # bool [R, 1, S, S], True where the row's position (first S) sees the column's

    @classmethod
    def of(cls, part_RS: Tensor, position_RS: Tensor) -> "Layout":
        """Lay out rows by the part each position belongs to: 0 for the prompt, 1, 2, ... for own parts."""
        causal_SS = torch.ones(part_RS.shape[1], part_RS.shape[1], dtype=torch.bool, device=part_RS.device).tril_()
        mine_RSS = (part_RS[:, :, None] == part_RS[:, None, :]) | (part_RS == 0)[:, None, :]
        return cls(position_RS, (mine_RSS & causal_SS)[:, None])


def sharing_of(model: PreTrainedModel) -> Sharing | None:
    """Say what a model can share by its configuration: attention that takes any mask, and nothing but attention.

    Eager attention keeps the scores of every pair, masked or not, and is left alone.
    """
    config: Any = model.config.get_text_config()
    takes = inspect.signature(model.base_model.forward).parameters
    layers = set(getattr(config, "layer_types", None) or _PLAIN)
    if config._attn_implementation != "sdpa" or not {"position_ids", "attention_mask"} <= takes.keys():
        return None
    if not layers <= _PLAIN or getattr(model, "_is_stateful", False):
        return None
    windows = [value for name in _WINDOWS if (value := getattr(config, name, None))]
    linear = sum(one.in_features * one.out_features for one in model.base_model.modules() if isinstance(one, nn.Linear))
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pairs = 2 * config.num_attention_heads * width * config.num_hidden_layers
    return Sharing(pairs / max(1, linear), min(windows, default=MOST_SHARED))


def executed_length(rollout: Rollout) -> int:
    """Positions a forward pass reads: everything but the last token, which predicts nothing."""
    return rollout.begin + max(0, rollout.answer_length - 1)


def own_length(rollout: Rollout) -> int:
    """Positions after the prompt."""
    return executed_length(rollout) - len(rollout.prompt_ids_P)


def row_length(rollouts: Sequence[Rollout]) -> int:
    """Positions of a row that these rollouts of one prompt share."""
    return len(rollouts[0].prompt_ids_P) + sum(map(own_length, rollouts))


def rows_of(rollouts: Sequence[Rollout], sharing: Sharing | None, positions: int) -> list[list[int]]:
    """Say which rollouts share a row: those of one prompt, as long as that pays and the row is not too long.

    The shortest come first and only the last row stays open. So some of these rows, asked about by themselves, are
    the same rows again: what was laid out for a micro-batch is what the micro-batch is made of.

    Args:
        rollouts: any number.
        sharing: what the model can share; None: nothing.
        positions: most positions of a shared row.

    Returns:
        Indices of every rollout, by row.

    """
    if sharing is None:
        return [[index] for index in range(len(rollouts))]
    alike: dict[bytes, list[int]] = defaultdict(list)
    for index, rollout in enumerate(rollouts):
        alike[rollout.prompt_ids_P.numpy().tobytes()].append(index)
    rows: list[list[int]] = []
    for group in alike.values():
        prompt, length = len(rollouts[group[0]].prompt_ids_P), 0
        for index in sorted(group, key=lambda index: own_length(rollouts[index])):
            own = own_length(rollouts[index])
            fits = prompt + own <= sharing.longest and length + own <= min(positions, MOST_SHARED)
            if length and fits and sharing.pays(prompt, own, length):
                rows[-1].append(index)
                length += own
            else:
                rows.append([index])
                length = prompt + own
    return rows
