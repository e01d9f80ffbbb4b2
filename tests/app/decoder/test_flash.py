"""Flash-attn behind the attention interface: what it is told of rows, lengths and windows, and when it is not asked.

There is no GPU here, so the kernel is a plain one that keeps the documented contract of `flash_attn_with_kvcache`; the
oracle is the reference sampler through SDPA. That the real kernel keeps its contract is checked where there is a GPU
(`Lane.prove` compares its logits at every load).
"""

import math
import sys
import types
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from app.decoder import flash
from app.decoder.anatomy import examine
from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.settings import Settings
from tests.app.engine.test_reference import assert_same, cast, in_double, mixed_requests
from training.models.policy import Policy
from training.sample import sample


class Plain:
    """`flash_attn_with_kvcache` in plain torch, for one query per row and keys that are already in the cache."""

    def __init__(self) -> None:
        self.calls = 0
        self.windows: set[tuple[int, int]] = set()

    def __call__(
        self,
        q: Tensor,  # [B, 1, G, D]
        k_cache: Tensor,  # [B, M, H, D]
        v_cache: Tensor,
        *,
        cache_seqlens: Tensor,  # int32 [B], the query's own position included
        softmax_scale: float | None,
        causal: bool,
        window_size: tuple[int, int],
    ) -> Tensor:
        assert cache_seqlens.dtype == torch.int32
        assert causal
        assert q.shape[1] == 1
        assert q.shape[2] % k_cache.shape[2] == 0
        assert k_cache.stride(-1) == 1
        self.calls += 1
        self.windows.add(window_size)
        scale = softmax_scale or 1 / math.sqrt(q.shape[-1])
        out = torch.empty_like(q)
        for row, length in enumerate(cache_seqlens.tolist()):
            left = window_size[0]
            first = 0 if left < 0 else max(length - 1 - left, 0)  # keys from the query's position less `left` on
            groups = q.shape[2] // k_cache.shape[2]
            keys = k_cache[row, first:length].repeat_interleave(groups, dim=1)  # [length, G, D]
            values = v_cache[row, first:length].repeat_interleave(groups, dim=1)
            weights = (torch.einsum("gd,mgd->gm", q[row, 0], keys) * scale).softmax(-1)
            out[row, 0] = torch.einsum("gm,mgd->gd", weights, values)
        return out


@pytest.mark.parametrize(
    ("family", "windows"),
    [("qwen2", {(-1, -1)}), ("mistral", {(6, 0)}), ("qwen2_mixed", {(-1, -1), (4, 0)}), ("gemma3", {(-1, -1), (5, 0)})],
)
def test_answers_by_the_kernel_are_those_by_sdpa(
    policies: Mapping[str, Policy], family: str, windows: set[tuple[int, int]]
) -> None:
    plain, fast = in_double(policies[family]), in_double(policies[family])
    kernel = Plain()
    flash.use(fast.model, kernel)
    requests = mixed_requests(8)
    engine = Engine(fast, EngineConfig(slots=3, max_length=128, prefill_chunk=16))
    for request, (finished,) in zip(requests, engine.generate(requests), strict=True):
        assert_same(finished.rollout, sample(plain, request.prompt_ids, request.sampling, request.max_new), 1e-5)
    layers = fast.model.config.num_hidden_layers
    assert kernel.calls >= layers * engine.stats().steps  # every layer of every step, and the proof at load
    assert kernel.windows == windows


def test_prompts_and_plain_forwards_stay_with_sdpa(policy: Policy) -> None:
    kernel, fast = Plain(), cast(policy, torch.float32)
    flash.use(fast.model, kernel)
    ids = torch.arange(3, 40)[None]
    with torch.inference_mode():
        torch.testing.assert_close(fast.model(input_ids=ids).logits, policy.model(input_ids=ids).logits)
    assert kernel.calls == 0


def test_a_kernel_that_is_wrong_is_refused_at_load(policy: Policy) -> None:
    fast, kernel = cast(policy, torch.float32), Plain()
    flash.use(fast.model, lambda q, k, v, **options: -kernel(q, k, v, **options))
    with pytest.raises(ValueError, match="other logits through slots"):
        Engine(fast, EngineConfig(slots=1, max_length=64))


def test_flash_that_cannot_be_had_is_refused_by_name(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in ("auto", "sdpa"):
        assert not Engine(policy, EngineConfig(slots=1, max_length=64, attention=asked)).flash
    config = EngineConfig.from_settings(Settings(slots=1, max_length=64, attention="flash"))
    with pytest.raises(ValueError, match="LEPO_ATTENTION=flash: the model is not on a CUDA device"):
        Engine(policy, config)
    anatomy = examine(policy)
    monkeypatch.setattr(flash, "_obstacle", lambda *_: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ValueError, match="flash-attn cannot be imported"):
        flash.choose(policy, anatomy, "flash")
    assert not flash.choose(policy, anatomy, "auto")


def test_auto_takes_flash_where_it_is(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU the obstacles are set aside; the package is a stand-in with the plain kernel."""
    kernel, module = Plain(), types.ModuleType("flash_attn")
    module.flash_attn_with_kvcache = kernel  # type: ignore[attr-defined]
    monkeypatch.setattr(flash, "_obstacle", lambda *_: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: object())
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    for asked in ("auto", "flash", "sdpa"):
        kernel.calls = 0
        fast = cast(policy, torch.float32)
        engine = Engine(fast, EngineConfig(slots=2, max_length=128, attention=asked))
        engine.generate(mixed_requests(2))
        assert engine.flash == (asked != "sdpa")
        assert (kernel.calls > 0) == engine.flash


@pytest.mark.parametrize(
    ("change", "message"),
    [({"dtype": torch.float32}, "LEPO_DTYPE"), ({"heads": 12}, "size"), ({"implementation": "eager"}, "eager")],
)
def test_models_that_flash_attn_cannot_serve_are_told_apart(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, change: dict[str, object], message: str
) -> None:
    """Seen through a policy that says it is on a GPU."""
    low = cast(policy, torch.bfloat16 if "dtype" not in change else torch.float32)
    anatomy = examine(low)
    if "heads" in change:
        object.__setattr__(anatomy.layers[0].keys, "size", 12)
    if "implementation" in change:
        low.model.set_attn_implementation("eager")
    monkeypatch.setattr(Policy, "device", torch.device("cuda:0"))
    found = flash._obstacle(low, anatomy)
    assert found is not None
    assert message in found
