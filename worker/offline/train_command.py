"""`lepo train`: learn from a file of problems, without a server, a database or a broker."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from worker.offline.recipe import CHOICES, PRESETS, option_names, recipe_for

if TYPE_CHECKING:
    from worker.offline.train import Training


def recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for every value of the recipe; not given, it is the preset's."""
    for name, kind, about in reversed(option_names()):
        choice = click.Choice(CHOICES[name]) if name in CHOICES else kind
        values = ", ".join(f"{preset}: {getattr(recipe, name)}" for preset, recipe in PRESETS.items())
        command = click.option(f"--{name.replace('_', '-')}", type=choice, help=f"{about}  [{values}]")(command)
    return command


@click.command("train", short_help="Learn from a file of problems, without a server.")
@click.option("--data", help="FILE.jsonl (prompt, answer, grader), gsm8k:train, or gsm8k:FILE.")
@click.option("--model", help="'demo', a directory in the Hugging Face layout, or a hub name.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Directory of the run.")
@click.option("--validation", help="As --data; a tenth of the data, 200 problems at most, when not given.")
@click.option("--preset", default="paper", show_default=True, type=click.Choice(list(PRESETS)))
@click.option("--resume", is_flag=True, help="Go on with the run in --out, with its own data, model and settings.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(min=1), help="torch threads; torch's choice when not given.")
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
    import torch

    from worker.offline.sources import told
    from worker.offline.start import Asked, begin
    from worker.offline.start import resume as go_on
    from worker.offline.watching import Watching
    from worker.recorders import Destinations

    if threads:
        torch.set_num_threads(threads)
    with Watching(out) as watching, ExitStack() as opened:
        if resume:
            training = go_on(out, device, watching.record, watching.tell, watching.stop)
        else:
            assert data
            assert model
            with told():
                recipe = recipe_for(preset, model, changes)
            asked = Asked(data, validation, model, recipe)
            training = begin(asked, out, device, watching.record, watching.tell, watching.stop)
        watching.begin(training.updates, training.place.step)
        destinations = Destinations(out / "tensorboard" if tensorboard else None, mlflow)
        with told():
            watching.hand_to(opened.enter_context(destinations.open(out.resolve().name, training.place.step)))
        ended = training.run()
    conclude(training, out)
    raise SystemExit(0 if ended == "done" else 130)


def conclude(training: "Training", out: Path) -> None:
    """Say where the weights are and how to go on."""
    place, shelf = training.place, training.shelf
    click.echo(f"{place.step} of {training.updates} updates; newest {shelf.path(place.step)}")
    if place.best is not None:
        click.echo(
            f"best on validation: {place.best.accuracy:.1%} after {place.best.step} updates, "
            f"{shelf.path(place.best.step)}"
        )
    if place.step < training.updates:
        click.echo(f"stopped; go on with: lepo train --resume --out {out}")
