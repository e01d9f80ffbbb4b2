"""`lepo train`: learn from a file of problems, without a server, a database or a broker."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.offline.processes import named, ranks_of, require_possible, run_together, told_once
from worker.offline.recipe import CHOICES, PRESETS, option_names, recipe_for

if TYPE_CHECKING:
    from worker.offline.train import Training


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every value of the recipe; not given, it is the preset's."""
    for name, kind, about in reversed(option_names()):
        choice = click.Choice(CHOICES[name]) if name in CHOICES else kind
        values = ", ".join(f"{preset}: {getattr(recipe, name)}" for preset, recipe in PRESETS.items())
        option = name.replace("_", "-")
        spelled = f"--{option}/--no-{option}" if kind is bool else f"--{option}"
        command = click.option(spelled, type=choice, default=None, help=f"{about}  [{values}]")(command)
    return command


@click.command("train", short_help="Learn from a file of problems, without a server.")
@click.option(
    "--data",
    help="FILE.jsonl (prompt, answer, grader), gsm8k:train, gsm8k:FILE, or reasoning_gym:NAME[:key=value,...].",
)
@click.option("--model", help="'demo', 'smollm2', a directory, a GGUF file, or a hub name.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Directory of the run.")
@click.option("--validation", help="As --data; a tenth of the data, 200 problems at most, when not given.")
@click.option("--preset", default="paper", show_default=True, type=click.Choice(list(PRESETS)))
@click.option("--resume", is_flag=True, help="Go on with the run in --out, with its own data, model and settings.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(min=1), help="torch threads; torch's choice when not given.")
@click.option("--processes", type=click.IntRange(min=1), help="That learn together, with a GPU each (FSDP).  [1]")
@click.option("--tensorboard", is_flag=True, help="Write every figure for TensorBoard, under OUT/tensorboard.")
@click.option("--mlflow", metavar="URI", envvar="MLFLOW_TRACKING_URI", help="Record to this MLflow server too.")
@recipe_options
def command(
    data: str | None,
    model: str | None,
    out: Path,
    validation: str | None,
    preset: str,
    *,
    resume: bool,
    device: str,
    threads: int | None,
    processes: int | None,
    tensorboard: bool,
    mlflow: str | None,
    **values: Any,
) -> None:
    """Roll out, grade and learn; validate and save now and then; keep the best checkpoint and the newest.

    Ctrl-C ends the run with a checkpoint; --resume goes on from there, and after a kill -9 from the last one saved.
    """
    changes = {name: value for name, value in values.items() if value is not None}
    if resume and (data or model or validation or changes):
        raise click.UsageError("--resume goes on with the run's own data, model and settings: give only --out with it")
    if not resume and not (data and model):
        raise click.UsageError("--data and --model are needed (or --resume)")
    from worker.offline.sources import told

    with told():
        recipe = recipe_for(preset, model or "", changes)
    if max(processes or 1, named()) > 1:
        require_possible(device)
    if processes and named() == 1 < processes:
        raise SystemExit(run_together(processes, sys.argv[1:]))
    if processes and processes != named():
        raise click.UsageError(f"{named()} processes were started already: leave --processes out")
    import torch

    from worker.offline.start import Asked, begin
    from worker.offline.start import resume as go_on
    from worker.offline.train import Around
    from worker.offline.watching import Watching
    from worker.recorders import Destinations

    if threads:
        torch.set_num_threads(threads)
    with ranks_of(device) as ranks:
        with Watching(out, leads=ranks.leads) as watching, ExitStack() as opened:
            where = device if ranks.size == 1 else ranks.device
            around = Around(where, ranks, watching.record, watching.tell, watching.say, watching.stop)
            training = (
                begin(Asked(data, validation, model, recipe), out, around) if data and model else go_on(out, around)
            )
            watching.begin(training.updates, training.place.step)
            destinations = Destinations(out / "tensorboard" if tensorboard else None, mlflow)
            with told_once(ranks), told():
                if ranks.leads:
                    watching.hand_to(opened.enter_context(destinations.open(out.resolve().name, training.place.step)))
            ended = training.run()
        if ranks.leads:
            conclude(training, out)
    raise SystemExit(0 if ended == "done" else 130)


def conclude(training: "Training", out: Path) -> None:
    """Say where the weights are and how to go on."""
    place, run_directory = training.place, training.run_directory
    click.echo(f"{place.step} of {training.updates} updates; newest {run_directory.path(place.step)}")
    if place.best is not None:
        click.echo(
            f"best on validation: {place.best.accuracy:.1%} after {place.best.step} updates, "
            f"{run_directory.path(place.best.step)}"
        )
    if place.step < training.updates:
        click.echo(f"stopped; go on with: lepo train --resume --out {out}")
