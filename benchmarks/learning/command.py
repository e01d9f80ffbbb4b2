"""`lepo bench learning`: LEPO against its rivals, same base, same rollouts, same optimizer steps, several seeds.

On our small base every method first has as many trials on validation, with a seed of no run that is reported; its best
one is used. On a real model (`--base smollm2 --preset real`) all share one learning rate: trials of a few updates would
tell less than their noise. Runs are kept as JSON files, so an interrupted bench goes on where it was.
Leaves out one run (`loop`, `real.cell`), the tables (`report`, `page`) and the pictures (`picture`).
"""

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from benchmarks.learning.loop import Budget
    from benchmarks.learning.methods import Candidate
    from benchmarks.learning.real.cells import Plan

TUNING_SEED = 1000  # of no run that is reported
DECIDES = ("loop", "methods", "rival", "gaussian", "sampler", "step")  # files whose text decides a run's result


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
OUR_BASE = "bench"
RESULTS = Path(__file__).parents[1] / "results"
REAL_RESULT, SMALL_RESULT = "learning_real.json", "learning_full.json"


@dataclass(frozen=True, slots=True)
class RealPreset:
    """How much is measured on a real model."""

    seeds: int
    updates: int
    problems: int  # per update
    test: int  # per family
    rate: float  # of Adam, for every method


REAL_PRESETS = {
    "real": RealPreset(seeds=3, updates=8, problems=16, test=42, rate=3e-5),
    "real-quick": RealPreset(seeds=1, updates=1, problems=4, test=4, rate=3e-5),
}


@dataclass(frozen=True, slots=True)
class Job:
    """One run."""

    candidate: "Candidate"
    seed: int
    budget: "Budget"


@click.command("learning")
@click.option("--base", default=OUR_BASE, show_default=True, help="'bench', or a real model: 'smollm2', a directory.")
@click.option(
    "--preset", type=click.Choice([*PRESETS, *REAL_PRESETS]), default="quick", show_default=True, help="How much."
)
@click.option("--methods", help="Run these alone, a comma between them; of a real model.  [all]")
@click.option("--families", help="Run these alone; of a real model.  [all]")
@click.option("--seeds", help="Run these alone, as 1,2; of a real model.  [the preset's]")
@click.option("--no-run", is_flag=True, help="Report on the cells that are there; of a real model.")
@click.option("--processes", type=click.IntRange(min=1), default=2, show_default=True, help="One thread each.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on the last line.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the report to this file too.")
@click.option("--write-docs", type=click.Path(path_type=Path), help="Write tables and pictures as this Markdown file.")
@click.option("--cache", type=click.Path(path_type=Path), default=Path("var/learning"), help="Where runs are kept.")
def command(
    base: str,
    preset: str,
    methods: str | None,
    families: str | None,
    seeds: str | None,
    processes: int,
    out: Path | None,
    write_docs: Path | None,
    cache: Path,
    *,
    no_run: bool,
    as_json: bool,
) -> None:
    """Train every method from the same base and compare them on test problems."""
    from benchmarks.report import finish

    if (base == OUR_BASE) != (preset in PRESETS):
        raise click.UsageError(f"--base {base} goes with --preset {' or '.join(presets_of(base))}")
    chosen = {"methods": methods, "families": families, "seeds": seeds}
    if base == OUR_BASE and (no_run or any(chosen.values())):
        raise click.UsageError("--methods, --families, --seeds and --no-run choose cells of a real model: give --base")
    reports = {file: committed(file) for file in (REAL_RESULT, SMALL_RESULT)}
    made = SMALL_RESULT if base == OUR_BASE else REAL_RESULT
    reports[made] = report = (
        measure(PRESETS[preset], preset, cache, processes)
        if base == OUR_BASE
        else measure_real(base, preset, chosen, cache, 0 if no_run else processes)
    )
    if not as_json:
        click.echo("\n".join(section_of(base)(report)))
    finish(report, as_json=as_json, out=out)
    if write_docs is not None:
        write(write_docs, reports, made)


def section_of(base: str) -> Callable[[dict[str, Any]], list[str]]:
    """Choose what writes a report as text."""
    from benchmarks.learning.page import small_section
    from benchmarks.learning.real.page import section

    return small_section if base == OUR_BASE else section


def write(page: Path, reports: Mapping[str, dict[str, Any] | None], made: str) -> None:
    """Write the page of both reports, and draw the picture of the one that was made now."""
    from benchmarks.learning import picture
    from benchmarks.learning.page import markdown
    from benchmarks.learning.real import picture as real_picture

    page.write_text(markdown(reports[REAL_RESULT], reports[SMALL_RESULT]), encoding="utf-8")
    draw, name = (real_picture.draw, "learning-real") if made == REAL_RESULT else (picture.draw, "learning")
    report = reports[made]
    assert report is not None, "it was made now"
    draw(page.parent / "pictures" / f"{name}.png", report)


def committed(file: str) -> dict[str, Any] | None:
    """Read a committed result; None where there is none."""
    path = RESULTS / file
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return found


def presets_of(base: str) -> list[str]:
    """Name the presets of a base."""
    return list(PRESETS if base == OUR_BASE else REAL_PRESETS)


def measure_real(base: str, preset: str, chosen: dict[str, str | None], cache: Path, processes: int) -> dict[str, Any]:
    """Run the chosen cells of a real model that are missing, and report on all that are there.

    Args:
        base: the model.
        preset: how much.
        chosen: what to run of "methods", "families" and "seeds", a comma between them; None: all.
        cache: where cells are kept.
        processes: how many cells at a time; 0: run none.

    """
    from app.models.source import model_source
    from app.settings import read_settings
    from benchmarks.learning.real.cells import Cache, digest_of, run_all
    from benchmarks.learning.real.report import summarised
    from benchmarks.timing import machine

    def say(line: str) -> None:
        click.echo(f"  {line}", err=True)

    plan = plan_of(base, preset)
    part = selected(plan, chosen)
    kept = Cache(cache / preset, digest_of(model_source(base, read_settings().var_dir, say)))
    if processes:
        run_all(part.cells(), kept, processes, say)
    report: dict[str, Any] = summarised(plan, kept, machine())
    return report


def plan_of(base: str, preset: str) -> "Plan":
    """Name all that a preset measures."""
    size = REAL_PRESETS[preset]
    from benchmarks.learning.methods import REAL
    from benchmarks.learning.real.budget import Budget
    from benchmarks.learning.real.cells import Plan
    from benchmarks.learning.real.families import FAMILIES

    budget = Budget(size.updates, size.problems, size.test, rate=size.rate)
    seeds = tuple(range(1, size.seeds + 1))
    return Plan(preset, base, tuple(REAL.values()), tuple(FAMILIES.values()), seeds, budget)


def selected(plan: "Plan", chosen: dict[str, str | None]) -> "Plan":
    """Cut a plan to what was chosen.

    Raises:
        click.UsageError: it has no such method, family or seed.

    """
    parts: dict[str, Any] = {}
    for what, written in chosen.items():
        known = {str(getattr(one, "name", one)): one for one in getattr(plan, what)}
        names = [one.strip() for one in written.split(",")] if written else list(known)
        if unknown := [one for one in names if one not in known]:
            raise click.UsageError(f"--{what}: no {', '.join(unknown)}; choose from {', '.join(known)}")
        parts[what] = tuple(known[one] for one in names)
    return replace(plan, **parts)


def measure(size: Preset, preset: str, cache: Path, processes: int) -> dict[str, Any]:
    """Run the trials, then every method's best one with every seed, and make the report."""
    from benchmarks.learning.loop import Budget
    from benchmarks.learning.methods import TRIED
    from benchmarks.learning.report import summarised
    from benchmarks.timing import machine

    trial = Budget(size.tuning_updates, size.problems, 0, look_every=size.tuning_updates)
    candidates = [one for tried in TRIED.values() for one in tried]
    trials = results([Job(one, TUNING_SEED, trial) for one in candidates], cache, "tuning", processes)
    chosen = best(candidates, trials)
    before, budget = Budget(0, size.problems, size.test), Budget(size.updates, size.problems, size.test)
    bases = results([Job(one, 0, before) for one in chosen], cache, "base", processes)
    seeds = range(1, size.seeds + 1)
    runs = results([Job(one, seed, budget) for seed in seeds for one in chosen], cache, "runs", processes)
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


def results(jobs: Sequence[Job], cache: Path, about: str, processes: int) -> list[dict[str, Any]]:
    """Give every run's result in the order of the jobs, from its file where there is one."""
    cache.mkdir(parents=True, exist_ok=True)
    files = [cache / f"{job.candidate.method.name}-{job.seed}-{key(job)}.json" for job in jobs]
    waiting = [(job, file) for job, file in zip(jobs, files, strict=True) if not file.exists()]
    if waiting:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool, _progress(about, len(waiting)) as advance:
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
