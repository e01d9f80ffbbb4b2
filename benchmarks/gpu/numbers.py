"""The noise and the draw on the device, against their definition on the CPU.

Axes: B rows, V vocabulary, K candidates.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.runner import Note
from benchmarks.gpu.setup import Setup
from training.candidates import top_candidates
from training.controls import controls_for
from training.draw import averaged_weights, draw, draw_by_parts
from training.latent import chosen
from training.noise import gumbel, step_key, stream
from training.sampling import Sampling

V = 151_936
SAMPLINGS = [
    Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed * 7919, draws=draws, tau=tau)
    for seed, (temperature, top_k, top_p, draws, tau) in enumerate(
        [(1.0, 30, 0.95, 1, 0.5), (0.0, 30, 1.0, 1, 0.3), (0.7, 50, 0.5, 4, 1.0), (1.0, 64, 1.0, 3, 0.5)] * 4
    )
]
_WIDTH, _CLOSE = 64, 2e-5


def check(note: Note, setup: Setup) -> None:
    """Bits of noise, candidates under ties, both readouts, and averaged latents."""
    note.check("noise is the CPU's", lambda: _noise(setup))
    for dtype in (torch.float32, torch.bfloat16):
        logits_BV = _logits(dtype)
        name = str(dtype).removeprefix("torch.")
        note.check(f"candidates are the CPU's, {name}", partial(_candidates, setup, logits_BV))
        note.check(f"draw is draw_by_parts on the CPU, {name}", partial(_draw, setup, logits_BV))
    note.check("equal logits give the lower id first", lambda: _ties(setup))
    note.check("a row that is not a number stays alone", lambda: _nan(setup))


def _logits(dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return (4 * torch.randn(len(SAMPLINGS), V, generator=generator)).to(dtype)


def _noise(setup: Setup) -> tuple[bool, Mapping[str, Any]]:
    ids_BK = torch.arange(64_000).view(16, -1)
    seed_B1 = (torch.arange(16) * 1_000_003 + 2**61)[:, None]
    step_B1 = torch.arange(16)[:, None] * 37

    def made(device: str) -> Tensor:
        key_B1 = step_key(stream(seed_B1.to(device)), step_B1.to(device))
        return gumbel(key_B1, ids_BK.to(device)).cpu()

    here, there = made("cpu"), made(setup.device)
    worst = float((here - there).abs().max())
    return worst <= 1e-6, {"bits_apart": int((here != there).sum()), "of": here.numel(), "worst": worst}


def _candidates(setup: Setup, logits_BV: Tensor) -> tuple[bool, Mapping[str, Any]]:
    here = top_candidates(logits_BV.float(), _WIDTH)
    there = top_candidates(logits_BV.to(setup.device).float(), _WIDTH).cpu()
    return torch.equal(here, there), {"apart": int((here != there).sum())}


def _draw(setup: Setup, logits_BV: Tensor) -> tuple[bool, Mapping[str, Any]]:
    step_B1 = torch.arange(len(SAMPLINGS))[:, None]
    here_controls, there_controls = (controls_for(SAMPLINGS, torch.device(at)) for at in ("cpu", setup.device))
    here = draw_by_parts(logits_BV, here_controls, step_B1, _WIDTH)
    there = draw(logits_BV.to(setup.device), there_controls, step_B1.to(setup.device), _WIDTH)
    weights_here = averaged_weights(here, here_controls, step_B1, 4)
    weights_there = averaged_weights(there, there_controls, step_B1.to(setup.device), 4)
    gaps = {
        name: _worst(getattr(here, name), getattr(there, name).cpu())
        for name in ("logprobs_BK", "scores_BK", "told_B3")
    } | {"averaged": _worst(weights_here, weights_there.cpu())}
    same = {
        "ids": torch.equal(here.ids_BK, there.ids_BK.cpu()),
        "tokens": torch.equal(here.token_B1, there.token_B1.cpu()),
        "readings": torch.equal(chosen(weights_here), chosen(weights_there).cpu()),
    }
    return all(same.values()) and max(gaps.values()) <= _CLOSE, same | gaps


def _ties(setup: Setup) -> tuple[bool, Mapping[str, Any]]:
    logits_BV = torch.zeros(3, V, device=setup.device)
    logits_BV[1, 1000:] = -0.0
    found = top_candidates(logits_BV, _WIDTH).cpu()
    return torch.equal(found, torch.arange(_WIDTH).expand(3, -1)), {"first": found[1, :4].tolist()}


def _nan(setup: Setup) -> tuple[bool, Mapping[str, Any]]:
    logits_BV = _logits(torch.float32)[:4].to(setup.device)
    controls, step_B1 = (
        controls_for(SAMPLINGS[:4], logits_BV.device),
        torch.zeros(4, 1, dtype=torch.long).to(setup.device),
    )
    whole = draw(logits_BV, controls, step_B1, _WIDTH).told_B3
    logits_BV[2, 5] = float("nan")
    broken = draw(logits_BV, controls, step_B1, _WIDTH).told_B3
    others = torch.tensor([0, 1, 3], device=broken.device)
    alone = torch.equal(whole[others], broken[others])
    return alone and bool(broken[2, 1].isnan()), {"others_same": alone, "told": broken[2].tolist()}


def _worst(here: Tensor, there: Tensor) -> float:
    """Largest difference; infinite where one is finite and the other is not."""
    same = (here == there) | (here.isnan() & there.isnan())
    gap = torch.where(same, 0.0, (here.double() - there.double()).abs())
    return float(gap.nan_to_num(nan=float("inf"), posinf=float("inf")).max())
