"""A prompt that cannot be scored is its caller's trouble alone."""

import threading
from concurrent.futures import Future

import pytest
import torch

from app.engine import score
from app.engine.engine import Engine
from app.engine.request import EngineClosed, Request, TokenInfo
from app.engine.score import ScoreFailed
from tests.app.engine.conftest import running
from training.models.policy import Policy
from training.sampling import Sampling

PROMPT = tuple(range(5, 25))
SECONDS = 60.0


def failing(monkeypatch: pytest.MonkeyPatch, *errors: BaseException) -> None:
    """Let the next scores fail, one by each error."""
    left, scored = list(errors), score.score

    def now(*given: object) -> list[TokenInfo]:
        if left:
            raise left.pop(0)
        return scored(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(score, "score", now)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "too little memory"),
        (RuntimeError("[enforce fail] not enough memory: you tried to allocate 9 bytes"), "too little memory"),
        (MemoryError(), "too little memory"),
        (RuntimeError("expected scalar type Float but found BFloat16"), "could not score"),
    ],
)
def test_a_failed_score_is_told_to_its_caller_and_the_engine_goes_on(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, error: BaseException, words: str
) -> None:
    failing(monkeypatch, error)
    with running(policy) as engine:
        with pytest.raises(ScoreFailed, match=words):
            engine.score(PROMPT).result(SECONDS)
        assert len(engine.score(PROMPT).result(SECONDS)) == len(PROMPT) - 1
        ((finished,),) = engine.generate([Request(PROMPT, Sampling(seed=1), max_new=4, ignore_eos=True)])
        assert finished.reason == "length"
        assert engine.stats().failure is None


def test_whoever_waits_hears_of_an_engine_that_fails_while_it_scores(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, KeyError("a fault of ours"))
    with running(policy) as engine:
        first = engine.score(PROMPT)
        with pytest.raises(EngineClosed, match="failed"):
            first.result(SECONDS)


def test_a_score_cancelled_while_others_wait_leaves_the_engine_closed(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, began = threading.Event(), threading.Event()
    scored = score.score

    def slowly(*given: object) -> list[TokenInfo]:
        began.set()
        go.wait(SECONDS)
        return scored(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(score, "score", slowly)
    waiting: list[Future[list[TokenInfo]]] = []
    with running(policy) as engine:
        waiting.extend(engine.score(PROMPT) for _ in range(3))
        assert began.wait(SECONDS)
        assert waiting[1].cancel()
        assert not waiting[0].cancel(), "it is being scored"
        closing = threading.Thread(target=Engine.close, args=(engine, 0.0))
        closing.start()
        go.set()
        closing.join(SECONDS)
        assert engine.stats().state == "closed"
    assert len(waiting[0].result(SECONDS)) == len(PROMPT) - 1
    with pytest.raises(EngineClosed):
        waiting[2].result(SECONDS)
