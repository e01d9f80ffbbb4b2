"""The sections in the order of what they are worth, as many as the budget holds, and what to read first."""

import argparse
import json
import logging
import tempfile
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from app.decoder import fused
from benchmarks.gpu import answers, device, figures, numbers, split, swaps, updates
from benchmarks.gpu.runner import Check, Section, say
from benchmarks.gpu.setup import BRIEF, FULL, Setup, tokenizer_of
from benchmarks.report import Bound, judged
from benchmarks.shapes import SHAPES

BOUNDS = (
    Bound("0.5b.decode.1.tokens_per_second", 300, "at least"),
    Bound("3b.decode.64.fraction_of_roofline", 0.5, "at least"),
    Bound("0.5b.latent_step_over_token_step", 1.05, "at most"),
    Bound("3b.latent_step_over_token_step", 1.05, "at most"),
    Bound("0.5b.swap.pause_ms_max", 10, "at most"),
    Bound("3b.swap.pause_ms_max", 10, "at most"),
    Bound("0.5b.swap.publish_to_served_s_max", 2, "at most"),
    Bound("3b.swap.publish_to_served_s_max", 2, "at most"),
)


def sections(setup: Setup, small: str, large: str) -> list[Section]:
    """All of them; correctness first, and of the figures those first that others build on.

    Args:
        setup: device and load.
        small: shape of the shorter measurements.
        large: shape of the longer ones; the same leaves them out.

    """

    def of(name: str, seconds: float, run: object, *given: object, **named: object) -> Section:
        assert callable(run)
        return Section(name, seconds, lambda note: run(note, setup, *given, **named))

    both = [small] if large == small else [small, large]
    rollouts = setup.work.rollouts
    return [
        of("device", 15, device.check),
        of("numbers", 10, numbers.check),
        of("answers in float32", 40, answers.check_small, answers.IN_FLOAT32),
        of("swaps", 20, swaps.check),
        of("updates", 15, updates.check),
        of("answers in bfloat16", 25, answers.check_small, answers.IN_BFLOAT16),
        of(f"decode {small}", 25, figures.decode, small),
        of(f"split {small}", 20, split.check, small),
        *([of(f"decode {large}", 45, figures.decode, large)] if large != small else []),
        of("answers in float64", 20, answers.check_small, answers.IN_FLOAT64),
        *(of(f"latent {name}", 15, figures.latent, name) for name in both),
        of(f"swap {small}", 40, figures.swapping, small, setup.work.swaps),
        of(f"update {small}", 20, figures.updating, small, rollouts=rollouts, repeats=setup.work.repeats),
        *([of(f"split {large}", 25, split.check, large)] if large != small else []),
        of(f"first tokens {small}", 35, figures.first_tokens, small),
        of("attention", 15, device.attention),
        of(f"answers of {small}", 15, answers.check_shape, small),
        *(
            [of(f"update {large}", 30, figures.updating, large, rollouts=rollouts // 2, repeats=1)]
            if large != small
            else []
        ),
        *([of(f"swap {large}", 90, figures.swapping, large, 1)] if large != small else []),
    ]


def run(asked: argparse.Namespace) -> int:
    """Run the sections that were asked for; 0 when none of them failed."""
    logging.basicConfig(level=logging.WARNING)
    disable_progress_bar()
    if asked.no_kernels:
        fused.kernels_on = _none  # type: ignore[assignment]
    setup = Setup(
        device="cpu" if asked.cpu else "cuda:0",
        dtype=torch.bfloat16,
        work=BRIEF if asked.cpu else FULL,
        scratch=asked.scratch or Path(tempfile.gettempdir()),
    )
    small, large = ("micro", "micro") if asked.cpu else ("0.5b", "3b")
    for vocabulary in {SHAPES[name].vocabulary for name in ("micro", small, large)}:
        tokenizer_of(vocabulary)  # here, once; each section's process finds it made
    every = sections(setup, small, large)
    chosen = [one for one in every if not asked.only or any(word in one.name for word in asked.only)]
    settings = {"device": setup.device, "dtype": str(setup.dtype), "budget_s": asked.budget, "cpu": asked.cpu}
    settings["kernels"] = not asked.no_kernels
    path = asked.out / ("cpu.json" if asked.cpu else "gpu.json")
    report = {"benchmark": "gpu", "settings": settings, "versions": device.versions()}
    check = Check(path, report, asked.budget, patient=asked.cpu)
    fine = check.run(chosen)
    check.report["bounds"] = judged(check.report["figures"], BOUNDS)
    check.report["seconds"] = round(asked.budget - check.left_s, 1)
    check.save()
    _summarise(check)
    if asked.json:
        print(json.dumps(check.report))  # noqa: T201 - the result of a command
    return 0 if fine else 1


def _none(*_given: object, **_named: object) -> None:
    """Stand for kernels that cannot be had."""


def _summarise(check: Check) -> None:
    """Say how each section ended, and whether the bounds were met."""
    report = check.report
    for name, section in report["sections"].items():
        failed = f": {', '.join(section['failed'])}" if "failed" in section else ""
        say(check.began, f"{section['status']:8} {name}{failed}")
    for row in report["bounds"]:
        kind = "at least" if "at least" in row else "at most"
        met = "met" if row["met"] else "MISSED"
        say(check.began, f"{met:8} {row['key']}: {row['measured']} ({kind} {row[kind]})")
