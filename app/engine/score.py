"""How likely the serving weights find a given text: prompt log-probabilities, computed between two steps.

For `echo` with `logprobs`, which evaluation harnesses score by. A prompt is one forward pass of its own, without slots,
so it delays the running rows by about as much as its prefill would. Leaves out sampling and the prefix cache.

Axes: P prompt tokens, C positions of one chunk, D hidden size, V vocabulary.
"""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

from app.engine.request import EngineClosed, TokenInfo
from training.memory.room import says_short_of_memory
from training.models.head import CausalLM, take_apart
from training.models.policy import Policy

_LOG = logging.getLogger(__name__)
_CHUNK = 128  # positions whose logits are held at once


class ScoreFailed(RuntimeError):
    """A prompt could not be scored; the engine goes on. The message is safe to show."""


@dataclass(frozen=True, slots=True)
class Order:
    """A prompt to be scored."""

    prompt_ids: tuple[int, ...]  # P of them
    top: int  # likeliest candidates wanted per token
    future: "Future[list[TokenInfo]]" = field(default_factory=Future)


class Scorer:
    """Takes prompts from any thread; `advance` is called by the engine's thread between two steps."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._orders: deque[Order] = deque()
        self._wake = wake
        self._head: CausalLM | None = None

    @property
    def waiting(self) -> int:
        """Prompts that wait."""
        return len(self._orders)

    def order(self, prompt_ids: tuple[int, ...], top: int) -> "Future[list[TokenInfo]]":
        """Ask for a prompt's scores."""
        order = Order(prompt_ids, top)
        self._orders.append(order)
        self._wake()
        return order.future

    def advance(self, policy: Policy) -> None:
        """Score one prompt, so that rows wait for one at most."""
        if not self._orders:
            return
        order = self._orders.popleft()
        if not order.future.set_running_or_notify_cancel():
            return
        try:
            if self._head is None or self._head.model is not policy.model:
                self._head = take_apart(policy.model)
            order.future.set_result(score(self._head, order.prompt_ids, order.top))
        except ValueError as error:  # this model cannot be scored; it goes on answering
            order.future.set_exception(error)
        except (RuntimeError, MemoryError) as error:  # this prompt cannot; others are none the worse
            order.future.set_exception(ScoreFailed(_why(error)))
        finally:
            if not order.future.done():  # the engine is about to fail, and nobody waits for ever
                order.future.set_exception(EngineClosed("The engine has failed and answers no more."))

    def close(self, reason: str) -> None:
        """Refuse what still waits."""
        while self._orders:
            future = self._orders.popleft().future
            if future.set_running_or_notify_cancel():  # else whoever asked has left
                future.set_exception(EngineClosed(reason))


@torch.no_grad()
def score(head: CausalLM, prompt_ids: tuple[int, ...], top: int) -> list[TokenInfo]:
    """Log-probabilities at temperature 1 of each prompt token but the first, over the whole vocabulary.

    Returns:
        P - 1 tokens, the second prompt token first.

    """
    ids_P = torch.tensor(prompt_ids, device=head.device)
    hidden_PD = head.hidden(head.embedding(ids_P[None]))[0, :-1]
    tokens: list[TokenInfo] = []
    for start in range(0, len(prompt_ids) - 1, _CHUNK):
        logprobs_CV = head.logits(hidden_PD[start : start + _CHUNK]).float().log_softmax(-1)
        tokens.extend(_chunk(logprobs_CV, ids_P[start + 1 : start + 1 + _CHUNK][: len(logprobs_CV)], top))
    return tokens


def _chunk(logprobs_CV: Tensor, ids_C: Tensor, top: int) -> list[TokenInfo]:
    chosen_C = logprobs_CV.gather(1, ids_C[:, None]).squeeze(1).tolist()
    best = logprobs_CV.topk(top, dim=-1)
    rivals = [
        tuple(zip(ids, values, strict=True))
        for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    return [TokenInfo(*token) for token in zip(ids_C.tolist(), chosen_C, rivals, strict=True)]


def _why(error: BaseException) -> str:
    """Say why a prompt could not be scored; what torch says goes to the log."""
    _LOG.warning("a prompt could not be scored", exc_info=error)
    if says_short_of_memory(error):
        return "There was too little memory to score this prompt: score shorter ones, or fewer at a time."
    return "The engine could not score this prompt; see its log."
