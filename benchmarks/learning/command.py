"""`lepo bench learning`: LEPO against its rivals, same base, same rollouts, same optimizer steps, several seeds.

Every method first has as many trials on validation, with a seed of no run that is reported; its best one is used.
Runs are kept as JSON files, so an interrupted bench goes on where it was. Leaves out one run (`loop`), the tables
(`report`, `page`) and the pictures (`picture`).
"""

import hashlib
import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from benchmarks.learning.loop import Budget
    from benchmarks.learning.methods import Candidate

TUNING_SEED = 1000  # of no run that is reported
WORKERS = 2  # processes, one thread each
DECIDES = ("loop", "methods", "rival", "gaussian", "sampler")  # files whose text decides a run's result


@dataclass(frozen=True, slots=True)
class Preset:
    """How much is measured."""

    seeds: int
    updates: int
    tuning_updates: int
    problems: int  # per family and update
    test: int  # per family


PRESETS = {
    "quick": Preset(seeds=2, updates=25, tuning_updates=10, problems=5, test=50),
    "full": Preset(seeds=6, updates=80, tuning_updates=50, problems=6, test=200),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One run."""

    candidate: "Candidate"
    seed: int
    budget: "Budget"


@click.command("learning")
@click.option("--preset", type=click.Choice(sorted(PRESETS)), default="quick", show_default=True, help="How much.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on the last line.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the report to this file too.")
@click.option("--write-docs", type=click.Path(path_type=Path), help="Write tables and pictures as this Markdown file.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("var/learning"), help="Where runs are kept.")
def command(preset: str, as_json: bool, out: Path | None, write_docs: Path | None, cache: Path) -> None:
    """Train every method from the same base and compare them on test problems."""
    from benchmarks.learning.page import markdown
    from benchmarks.learning.picture import draw
    from benchmarks.report import finish

    report = measure(PRESETS[preset], preset, cache)
    text = markdown(report)
    if not as_json:
        click.echo(text)
    finish(report, as_json=as_json, out=out)
    if write_docs is not None:
        write_docs.write_text(text, encoding="utf-8")
        draw(write_docs.parent / "pictures" / "learning.png", report)


def measure(size: Preset, preset: str, cache: Path) -> dict[str, Any]:
    """Run the trials, then every method's best one with every seed, and make the report."""
    from benchmarks.learning.loop import Budget
    from benchmarks.learning.methods import TRIED
    from benchmarks.learning.report import summarised
    from benchmarks.timing import machine

    trial = Budget(size.tuning_updates, size.problems, 0, look_every=size.tuning_updates)
    candidates = [one for tried in TRIED.values() for one in tried]
    trials = results([Job(one, TUNING_SEED, trial) for one in candidates], cache, "tuning")
    chosen = best(candidates, trials)
    before, budget = Budget(0, size.problems, size.test), Budget(size.updates, size.problems, size.test)
    bases = results([Job(one, 0, before) for one in chosen], cache, "base")
    seeds = range(1, size.seeds + 1)
    runs = results([Job(one, seed, budget) for seed in seeds for one in chosen], cache, "runs")
    report: dict[str, Any] = summarised(bases, trials, runs, {"preset": preset, **asdict(size)}, machine())
    return report


def best(candidates: Sequence["Candidate"], trials: Sequence[dict[str, Any]]) -> list["Candidate"]:
    """Choose each method's candidate: the highest validation reward at the end of its trial, the first of equals."""
    found: dict[str, tuple[float, Candidate]] = {}
    for one, trial in zip(candidates, trials, strict=True):
        reached = trial["curve"][-1]["average"]
        if one.method.name not in found or reached > found[one.method.name][0]:
            found[one.method.name] = reached, one
    return [one for _, one in found.values()]


def results(jobs: Sequence[Job], cache: Path, about: str) -> list[dict[str, Any]]:
    """Give every run's result in the order of the jobs, from its file where there is one."""
    cache.mkdir(parents=True, exist_ok=True)
    files = [cache / f"{job.candidate.method.name}-{job.seed}-{key(job)}.json" for job in jobs]
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
    from training.bench_model.location import WEIGHTS
    from training.models.policy import load_policy

    policy, base = (load_policy(WEIGHTS, version=0, dtype=torch.float32, device="cpu") for _ in range(2))
    result = run(policy, base, job.candidate, job.seed, job.budget)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(result), encoding="utf-8")
    partial.replace(file)


def key(job: Job) -> str:
    """Name a job by all that decides its result: settings, the method, the base, and the code of the bench."""
    from training.bench_model.location import WEIGHTS

    sha = hashlib.sha256(json.dumps(asdict(job)).encode())
    sha.update((WEIGHTS / "model.safetensors").read_bytes())
    for name in DECIDES:
        sha.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return sha.hexdigest()[:16]
