"""The peers of the engine, each at its best on the same modules: transformers' `generate` and `generate_batch`.

What is fair to each:

- `generate` runs in inference mode with the faster of its dynamic and static caches (tried before timing), without an
  end of sequence to look for and without a length processor. It has no budget per row, so a batch runs to its longest
  answer and what other rows made beyond theirs is cut away: a criterion per row would only add work, since `generate`
  keeps finished rows in the batch. Only the tokens asked for are counted.
- `generate_batch` is its own loop with a manager that outlives the call (its way to a steady state), asked request by
  request because `generate_batch` itself takes one budget for all. Manager, cache and a first load are not timed.
- Neither is compiled: the engine is not either, and compiling took longer than the load. The engine packs its weights
  once per version (`app.decoder.packed`), for which transformers has no switch.

Leaves out the bare forward (`benchmarks.bare`), which is a bound and not a peer.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from benchmarks.load import TEMPERATURE, TOP_K, TOP_P, Ask
from benchmarks.timing import seconds
from training.models.policy import Policy

CACHES = ("dynamic", "static")
PAGE = 32  # positions per page; on a CPU the paged mask is as wide as the pages in use, so small pages are quick


def generation_config(**more: Any) -> GenerationConfig:
    """Make the sampling settings that all peers share."""
    return GenerationConfig(do_sample=True, temperature=TEMPERATURE, top_k=TOP_K, top_p=TOP_P, pad_token_id=0, **more)


def generate(policy: Policy, asks: Sequence[Ask], cache: str) -> list[list[int]]:
    """One static batch, left-padded.

    Returns:
        the answers, each of its own length.

    """
    longest = max(ask.answer_length for ask in asks)
    ids_BP, mask_BP = left_padded(asks)
    config = generation_config(
        max_new_tokens=longest, cache_implementation=None if cache == "dynamic" else cache, disable_compile=True
    )
    model = cast("Any", policy.model)
    with torch.inference_mode():
        made_BT: Tensor = model.generate(
            input_ids=ids_BP.to(policy.device),
            attention_mask=mask_BP.to(policy.device),
            generation_config=config,
        )[:, ids_BP.shape[1] :]
    assert made_BT.shape == (len(asks), longest), "generate stopped early"
    return [row[: ask.answer_length] for row, ask in zip(made_BT.tolist(), asks, strict=True)]


def generate_in_batches(policy: Policy, asks: Sequence[Ask], batch: int, cache: str) -> list[list[int]]:
    """Answer in static batches, in the order of arrival."""
    groups = [asks[start : start + batch] for start in range(0, len(asks), batch)]
    return [answer for group in groups for answer in generate(policy, group, cache)]


def faster_cache(policy: Policy, asks: Sequence[Ask]) -> str:
    """Try `generate` with each cache on one batch, twice, and name the faster."""
    return min(CACHES, key=lambda cache: min(seconds(partial(generate, policy, asks, cache)) for _ in range(2)))


def left_padded(asks: Sequence[Ask]) -> tuple[Tensor, Tensor]:
    """Prompts as one int64 [B, P], and a mask of the same shape that is 1 on what is theirs."""
    longest = max(len(ask.prompt_ids) for ask in asks)
    ids_BP = torch.zeros(len(asks), longest, dtype=torch.long)
    mask_BP = torch.zeros(len(asks), longest, dtype=torch.long)
    for row, ask in enumerate(asks):
        ids_BP[row, longest - len(ask.prompt_ids) :] = torch.tensor(ask.prompt_ids)
        mask_BP[row, longest - len(ask.prompt_ids) :] = 1
    return ids_BP, mask_BP


class ContinuousBatching:
    """Transformers' continuous batching, kept running so that a load finds it warm."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    def answer(self, asks: Sequence[Ask]) -> list[list[int]]:
        """Submit everything at once and wait for the last answer.

        Returns:
            the answers, each of its own length.

        Raises:
            RuntimeError: its loop died or a request failed.

        """
        names = [
            self._manager.add_request(list(ask.prompt_ids), max_new_tokens=ask.answer_length, eos_token_id=-1)
            for ask in asks
        ]
        answers: dict[str, list[int]] = {}
        while len(answers) < len(asks):
            output = self._manager.get_result(timeout=1)
            if output is None:
                if not self._manager.is_running():
                    raise RuntimeError("continuous batching stopped; see its log above")
            elif output.error is not None:
                raise RuntimeError(f"continuous batching failed a request: {output.error}")
            elif output.is_finished():
                answers[output.request_id] = output.generated_tokens
        return [answers[name] for name in names]


@contextmanager
def continuous_batching(policy: Policy, slots: int, longest: int) -> Iterator[ContinuousBatching]:
    """Keep transformers' manager running inside the block.

    Args:
        policy: the model.
        slots: requests decoded together.
        longest: positions of the longest request, prompt and answer.

    """
    pages = slots * (longest // PAGE + 2)
    config = ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=pages,
        max_batch_tokens=max(256, slots),
        max_requests_per_batch=slots,
        allow_block_sharing=False,
        seed=0,
    )
    model = cast("Any", policy.model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about flash attention, which a CPU does not have
        manager = model.init_continuous_batching(generation_config(eos_token_id=-1), config)
    manager.start()
    try:
        yield ContinuousBatching(manager)
    finally:
        manager.stop(block=True, timeout=30)
        manager.destroy()
