"""`lepo bench learning`: LEPO against its rivals, same base, same rollouts, same optimizer steps, several seeds.

Every method first tries the same learning rates on validation with another seed; the better one is used. Runs are
kept as JSON files, so an interrupted bench goes on where it was. Leaves out one run (`loop`) and the tables (`report`).
"""

import hashlib
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from benchmarks.learning.loop import Budget

RATES = (3e-4, 1e-3)  # tried by every method
TUNING_SEED = 1000  # of no run that is reported
WORKERS = 2  # processes, one thread each


@dataclass(frozen=True, slots=True)
class Preset:
    """How much is measured."""

    seeds: int
    updates: int
    tuning_updates: int
    problems: int  # per family and update
    test: int  # per family


PRESETS = {
    "quick": Preset(seeds=3, updates=40, tuning_updates=20, problems=5, test=64),
    "full": Preset(seeds=5, updates=100, tuning_updates=40, problems=6, test=200),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One run, in words that a file name can be made of."""

    method: str
    seed: int
    rate: float
    budget: "Budget"


@click.command("learning")
@click.option("--preset", type=click.Choice(sorted(PRESETS)), default="quick", show_default=True, help="How much.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on the last line.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the report to this file too.")
@click.option("--write-docs", type=click.Path(path_type=Path), help="Write the tables to this Markdown file.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("var/learning"), help="Where runs are kept.")
def command(preset: str, as_json: bool, out: Path | None, write_docs: Path | None, cache: Path) -> None:
    """Train every method from the same base and compare them on test problems."""
    from benchmarks.learning.loop import Budget
    from benchmarks.learning.methods import METHODS
    from benchmarks.learning.report import markdown, summarised
    from benchmarks.report import finish

    size = PRESETS[preset]
    trial = Budget(size.tuning_updates, size.problems, 1, look_every=size.tuning_updates)
    trials = results([Job(name, TUNING_SEED, rate, trial) for name in METHODS for rate in RATES], cache, "tuning")
    rates = best_rates(trials)
    budget = Budget(size.updates, size.problems, size.test)
    jobs = [Job(name, seed, rates[name], budget) for seed in range(1, size.seeds + 1) for name in METHODS]
    base = results([Job("grpo", 0, RATES[0], replace(budget, updates=0))], cache, "base")
    report = summarised(base[0], trials, results(jobs, cache, "runs"), {"preset": preset, **asdict(size)})
    finish(report, as_json=as_json, out=out)
    text = markdown(report)
    if write_docs is not None:
        write_docs.write_text(text, encoding="utf-8")
    if not as_json:
        click.echo(text)


def best_rates(trials: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Choose each method's learning rate: the higher validation reward at the end of its trial."""
    best: dict[str, dict[str, Any]] = {}
    for one in trials:
        held = best.get(one["method"])
        if held is None or one["curve"][-1]["average"] > held["curve"][-1]["average"]:
            best[one["method"]] = one
    return {name: float(one["rate"]) for name, one in best.items()}


def results(jobs: Sequence[Job], cache: Path, about: str) -> list[dict[str, Any]]:
    """Give every run's result in the order of the jobs, from its file where there is one."""
    cache.mkdir(parents=True, exist_ok=True)
    files = [cache / f"{job.method}-{job.seed}-{key(job)}.json" for job in jobs]
    waiting = [(job, file) for job, file in zip(jobs, files, strict=True) if not file.exists()]
    if waiting:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(WORKERS, mp_context=context) as pool, _progress(about, len(waiting)) as advance:
            for done in as_completed([pool.submit(work, job, file) for job, file in waiting]):
                done.result()
                advance()
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


@contextmanager
def _progress(about: str, total: int) -> "Iterator[Any]":
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(about, total=total)
        yield lambda: bar.advance(task)


def work(job: Job, file: Path) -> None:
    """Run a job on its own copy of the base and keep the result; a half-written file is never left."""
    import torch

    from benchmarks.learning.loop import run
    from benchmarks.learning.methods import METHODS
    from training.bench_model.location import WEIGHTS
    from training.policy import load_policy

    policy = load_policy(WEIGHTS, version=0, dtype=torch.float32, device="cpu")
    result = run(policy, METHODS[job.method], job.seed, job.rate, job.budget)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(file)


def key(job: Job) -> str:
    """Name a job by all that decides its result: settings, the method, the base, and the code of the bench."""
    from benchmarks.learning.methods import METHODS
    from training.bench_model.location import WEIGHTS

    sha = hashlib.sha256(json.dumps([asdict(job), asdict(METHODS[job.method])]).encode())
    sha.update((WEIGHTS / "model.safetensors").read_bytes())
    for name in ("loop.py", "rival.py", "sampler.py"):
        sha.update(Path(__file__).with_name(name).read_bytes())
    return sha.hexdigest()[:16]
