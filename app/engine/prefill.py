"""Prompts into keys and values: within a budget of positions at every step, once for all choices of a request.

All but the last token of a prompt are computed here; the last one is the first decode step of each choice, so sampling
happens in one place and a prompt whose blocks are known may need nothing at all. The shortest go first, several side by
side, and if the oldest is not among them it has half of the budget: so a short prompt waits for nobody, and a long one
comes to its end too. A choice that had to give up its blocks comes back through here: what it had executed, latent
steps included, is computed again. Leaves out where a finished prompt goes (`app.engine.lane`).

Axes: B prompts side by side, C positions per chunk, X steps executed, D hidden size.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from app.decoder.cache import BLOCK, PADDING, PagedCache, blocks_for
from app.decoder.length import Lengths
from app.decoder.masks import Masks
from app.engine.answer import Answer
from app.engine.blocks import Blocks, Root
from app.engine.rows import Trace
from app.engine.ticket import Ticket
from training.memory.room import give_back, says_short_of_memory
from training.models.policy import Policy, embedding

_LOG = logging.getLogger(__name__)
SIDE_BY_SIDE: Final = 16  # prompts computed together at most


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a choice had executed when it gave up its blocks."""

    answer: Answer
    trace: Trace  # its latent steps
    inputs_XD: Tensor  # what each step read, the prompt's last token first
    next_1D: Tensor  # what the next step reads


@dataclass(slots=True, eq=False)
class Prompt:
    """A prompt on its way into keys and values, or done and with choices that have no row yet."""

    ticket: Ticket
    resumed: Resumed | None = None  # the one choice that this is for; None: for all that have had no row
    blocks: list[int] = field(default_factory=list)  # none: it waits for them
    filled: int = 0  # positions computed, or found
    known: int = 0  # blocks of these that can be found by their tokens
    root: Root = 0  # of the block behind those

    @property
    def ids(self) -> tuple[int, ...]:
        """The prompt without its last token."""
        return self.ticket.executed_ids[:-1]

    @property
    def positions(self) -> int:
        """Positions to be computed or found."""
        return len(self.ids) + (0 if self.resumed is None else len(self.resumed.inputs_XD))

    @property
    def left(self) -> int:
        """Positions still to compute."""
        return self.positions - self.filled

    @property
    def room(self) -> int:
        """Blocks that it takes, with one for the first step."""
        return blocks_for(self.positions + 1)

    @property
    def ready(self) -> bool:
        """Whether rows can begin from it."""
        return bool(self.blocks or not self.positions) and not self.left

    @property
    def choices(self) -> int:
        """How many choices wait for a row, those counted that were ended meanwhile; cheap, from any thread."""
        return 1 if self.resumed is not None else self.ticket.request.choices - self.ticket.seeded

    @property
    def waiting(self) -> list[Answer]:
        """Choices that wait for a row."""
        if self.resumed is not None:
            return [self.resumed.answer]
        return [answer for answer in self.ticket.answers[self.ticket.seeded :] if not answer.finished]


class OutOfMemory(Exception):
    """Not even the smallest piece of work for a request fits the memory that is left."""

    def __init__(self, ticket: Ticket) -> None:
        super().__init__("The engine has no memory left for this request.")
        self.ticket = ticket


class Prefill:
    """The prompts of one version."""

    def __init__(
        self, policy: Policy, model: Any, cache: PagedCache, masks: Masks, blocks: Blocks, lengths: Lengths
    ) -> None:
        self.prompts: list[Prompt] = []  # in the order they came
        self.computed_tokens = 0  # prompt positions computed, padding not counted
        self._most = sys.maxsize  # positions that memory allows at once
        self._root = blocks.root()  # of this version's chains
        self._model = model.base_model  # no head: a prompt's logits are not needed
        self._embedding = embedding(policy)
        self._device = policy.device
        self._cache = cache
        self._masks = masks
        self._blocks = blocks
        self._lengths = lengths

    @property
    def busy(self) -> bool:
        """Whether prompts are here, computed or not."""
        return bool(self.prompts)

    @property
    def short(self) -> list[Ticket]:
        """Requests whose prompts wait for blocks."""
        return [prompt.ticket for prompt in self.prompts if not prompt.blocks and prompt.positions]

    def add(self, prompt: Prompt) -> None:
        """Begin a prompt, if there are blocks for it; else it waits here."""
        self.prompts.append(prompt)
        self._allot(prompt)

    def remove(self, prompt: Prompt) -> None:
        """Forget a prompt and let go of its blocks."""
        self.prompts.remove(prompt)
        self._blocks.give_back(prompt.blocks)

    def retreat(self, prompt: Prompt) -> None:
        """Let go of a prompt's blocks; it is computed again when there is room."""
        self._blocks.give_back(prompt.blocks)
        prompt.blocks, prompt.filled, prompt.known = [], 0, 0

    def restart(self) -> None:
        """Compute every prompt again: the weights have changed, and what is known of the old ones is not theirs."""
        self._root = self._blocks.root()
        for prompt in self.prompts:
            self.retreat(prompt)

    def advance(self, budget: int, spare: int) -> None:
        """Compute up to `budget` positions; prompts without blocks may take what leaves `spare` of them free.

        Where that takes more memory than there is, half as many are computed from then on.

        Raises:
            OutOfMemory: not even one position can be computed.

        """
        for prompt in self.prompts:
            if not prompt.blocks and prompt.positions:
                if self._blocks.free < prompt.room + spare:
                    break
                self._allot(prompt)
        active = [prompt for prompt in self.prompts if prompt.blocks and prompt.left]
        for pieces, width in portions(active, min(budget, self._most)):
            try:
                self._compute(pieces, width)
            except (RuntimeError, MemoryError) as error:
                if not says_short_of_memory(error):
                    raise
                give_back(self._device)
                self._most = width * len(pieces) // 2
                if not self._most:
                    raise OutOfMemory(pieces[0].ticket) from error
                _LOG.warning("memory is short: prompts go on by %d positions a step: %s", self._most, error)

    def _allot(self, prompt: Prompt) -> None:
        """Give a prompt the known blocks it begins with, and new ones for the rest."""
        found = self._blocks.find(self._root, prompt.ids)
        self._blocks.share([one.block for one in found])
        taken = self._blocks.take(blocks_for(prompt.positions) - len(found))
        if taken is None:
            self._blocks.give_back([one.block for one in found])
            return
        self._blocks.hit_tokens += len(found) * BLOCK
        prompt.blocks = [*(one.block for one in found), *taken]
        prompt.known, prompt.filled = len(found), len(found) * BLOCK
        prompt.root = found[-1].number if found else self._root

    def _compute(self, pieces: Sequence[Prompt], width: int) -> None:
        """Forward the next `width` positions of each prompt.

        A prompt with less left is padded; what the padding writes lies behind its end, where it is written again before
        it is read, or in nobody's block.
        """
        rows, blocks = len(pieces), self._lengths.blocks
        table_BT = torch.full((rows, blocks), PADDING)
        first_B = torch.tensor([prompt.filled for prompt in pieces])
        for row, prompt in enumerate(pieces):
            table_BT[row, : len(prompt.blocks)] = torch.tensor(prompt.blocks)
        position_BC = (first_B[:, None] + torch.arange(width)).clamp(max=self._lengths.longest - 1).to(self._device)
        length = self._lengths.bucket(min(int(first_B.max()) + width, self._lengths.longest))
        self._cache.bind(table_BT.to(self._device), position_BC, length)
        self._model(
            inputs_embeds=self._inputs(pieces, width),
            attention_mask=self._masks(position_BC, length),
            position_ids=position_BC,
            past_key_values=self._cache,
            use_cache=True,
        )
        for prompt in pieces:
            done = min(width, prompt.left)
            prompt.filled += done
            self.computed_tokens += done
            self._let_be_found(prompt)

    def _inputs(self, pieces: Sequence[Prompt], width: int) -> Tensor:
        """Embed the next positions of prompts [B, C, D]."""
        ids_BC = torch.zeros((len(pieces), width), dtype=torch.long)
        for row, prompt in enumerate(pieces):
            piece = prompt.ids[prompt.filled : prompt.filled + width]
            ids_BC[row, : len(piece)] = torch.tensor(piece)
        inputs_BCD: Tensor = self._embedding(ids_BC.to(self._device))
        for row, prompt in enumerate(pieces):
            if prompt.resumed is not None and (end := prompt.filled + width) > (begin := len(prompt.ids)):
                start = max(0, begin - prompt.filled)
                tail_XD = prompt.resumed.inputs_XD[max(0, prompt.filled - begin) : end - begin]
                inputs_BCD[row, start : start + len(tail_XD)] = tail_XD
        return inputs_BCD

    def _let_be_found(self, prompt: Prompt) -> None:
        """Let the blocks that are full of the prompt's tokens be found by others."""
        ids = prompt.ids
        while (end := (prompt.known + 1) * BLOCK) <= min(prompt.filled, len(ids)):
            prompt.root = self._blocks.know(prompt.root, ids[end - BLOCK : end], prompt.blocks[prompt.known])
            prompt.known += 1


def portions(active: Sequence[Prompt], budget: int) -> list[tuple[list[Prompt], int]]:
    """Choose which prompts go on in a step, and by how many positions each.

    Args:
        active: with positions left, in the order they came.
        budget: positions over all prompts, padding counted.

    Returns:
        prompts that are computed side by side, with the width of that; at most two such groups.

    """
    if not active:
        return []
    shortest = sorted(active, key=lambda prompt: prompt.left)
    group = _fitting(shortest, budget)
    oldest = active[0]
    if oldest in group:
        return [(group, group[-1].left)]
    if len(active) == 1:
        return [([oldest], min(oldest.left, budget))]
    half = max(1, budget // 2)
    others = [prompt for prompt in shortest if prompt is not oldest]
    group = _fitting(others, half) or others[:1]
    return [(group, min(group[-1].left, half)), ([oldest], min(oldest.left, half))]


def _fitting(shortest: Sequence[Prompt], budget: int) -> list[Prompt]:
    """As many of the shortest as can be finished side by side."""
    group: list[Prompt] = []
    for prompt in shortest[:SIDE_BY_SIDE]:
        if (len(group) + 1) * prompt.left > budget:
            break
        group.append(prompt)
    return group
