"""`lepo make-demo-model`: make the small model of the demo anew, and measure it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from training.demo_model.model_card import Figure
    from training.demo_model.recipe import Recipe


@click.command("make-demo-model", short_help="Make the small model of the demo anew.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Directory to write.")
@click.option("--seed", default=0, show_default=True, help="Names the weights, the lessons and their slips.")
@click.option("--steps", type=click.IntRange(min=1), help="Optimizer steps; the recipe's when not given.")
@click.option("--problems", default=400, show_default=True, type=click.IntRange(1, 5000), help="Test problems asked.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 64), help="torch threads.")
def command(out: Path, seed: int, steps: int | None, problems: int, threads: int) -> None:
    """Warm-start the demo model, save it in the Hugging Face layout, and print what it solves.

    The same seed and number of threads make the same weights on one machine.
    """
    from dataclasses import replace

    import torch
    from rich.console import Console

    from training.demo_model.model_card import card, draw_test, figures, write_card
    from training.demo_model.recipe import Recipe

    torch.set_num_threads(threads)
    recipe = Recipe(seed=seed)
    model, tokenizer = warm_start_with_progress(recipe if steps is None else replace(recipe, steps=steps))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    console = Console()
    with console.status(f"Asking {problems} test problems"):
        lines = figures(model, tokenizer, draw_test(problems))
    parameters = sum(weight.numel() for weight in model.parameters())
    write_card(out, card(recipe, parameters, problems, lines))
    print_figures(console, out, lines)


def warm_start_with_progress(recipe: "Recipe") -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Make the model while a bar shows the steps, the loss and the time left."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from training.demo_model.recipe import warm_start

    columns = (
        TextColumn("Warm start"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        bar = progress.add_task("Warm start", total=recipe.steps, loss=float("nan"))
        return warm_start(recipe, lambda step, loss: progress.update(bar, completed=step, loss=loss))


def print_figures(console: "Console", out: Path, lines: "Sequence[Figure]") -> None:
    """Print what was measured as a table."""
    from rich.table import Table

    from training.demo_model.model_card import TRIES

    table = Table("answers", "right", f"right in one of {TRIES} tries", title=f"Saved in {out}")
    for line in lines:
        table.add_row(line.what, f"{line.average:.1%}", "" if line.best is None else f"{line.best:.1%}")
    console.print(table)
