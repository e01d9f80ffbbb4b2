"""`lepo make-demo-model`: make the small model of the demo anew, or the base model of the bench, and measure it."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from training.demo_model.model_card import Figure
    from training.demo_model.recipe import Recipe


@click.command("make-demo-model", short_help="Make the demo's or the bench's small model anew.")
@click.option(
    "--model", "which", type=click.Choice(["demo", "bench"]), default="demo", show_default=True, help="Which model."
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Directory to write.")
@click.option("--seed", default=0, show_default=True, help="Names the weights, the lessons and their slips.")
@click.option("--steps", type=click.IntRange(min=1), help="Optimizer steps; the recipe's when not given.")
@click.option(
    "--problems", default=400, show_default=True, type=click.IntRange(1, 5000), help="Test problems asked per family."
)
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1, 64), help="torch threads.")
@click.option("--measure-only", is_flag=True, help="bench: measure the model in --out as it is, and write its card.")
def command(
    which: str, out: Path, seed: int, steps: int | None, problems: int, threads: int, *, measure_only: bool
) -> None:
    """Warm-start a small model, save it in the Hugging Face layout, and print what it solves.

    `demo` knows chained arithmetic alone; `bench` is the base of the learning bench and knows every family of
    problems. The same seed and number of threads make the same weights on one machine.
    """
    import torch

    torch.set_num_threads(threads)
    if which == "bench":
        make_bench(out, seed, steps, problems, measure_only=measure_only)
    elif measure_only:
        raise click.UsageError("--measure-only goes with --model bench.")
    else:
        make_demo(out, seed, steps, problems)


def make_demo(out: Path, seed: int, steps: int | None, problems: int) -> None:
    """Make, save and measure the demo model."""
    from dataclasses import replace

    from rich.console import Console

    from training.demo_model.model_card import card, draw_test, figures, write_card
    from training.demo_model.recipe import Recipe, warm_start

    recipe = Recipe(seed=seed)
    recipe = recipe if steps is None else replace(recipe, steps=steps)
    model, tokenizer = warm_start_with_progress(recipe, warm_start)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    console = Console()
    with console.status(f"Asking {problems} test problems"):
        lines = figures(model, tokenizer, draw_test(problems))
    parameters = sum(weight.numel() for weight in model.parameters())
    write_card(out, card(recipe, parameters, problems, lines))
    print_figures(console, out, lines)


def make_bench(out: Path, seed: int, steps: int | None, problems: int, *, measure_only: bool) -> None:
    """Make and save the bench model, unless it is there to be measured only; then measure it."""
    from dataclasses import replace

    from rich.console import Console
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from training.bench_model.measurement import measure_families
    from training.bench_model.model_card import bench_card
    from training.bench_model.recipe import HABITS, bench_recipe, warm_start_bench
    from training.demo_model.model_card import write_card
    from training.tasks.splits import Split

    recipe = bench_recipe(seed)
    recipe = recipe if steps is None else replace(recipe, steps=steps)
    if not measure_only:
        made, its_tokenizer = warm_start_with_progress(recipe, warm_start_bench)
        made.save_pretrained(out)
        its_tokenizer.save_pretrained(out)
    elif not (out / "config.json").is_file():
        raise click.UsageError(f"{out} holds no model; leave out --measure-only to make it.")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    console = Console()
    with console.status(f"Asking {problems} test problems of each family"):
        lines = []
        for line in measure_families(model, tokenizer, Split.TEST, problems):
            lines.append(line)
            console.print(
                f"{line.family}, {line.latent_length} latent steps: greedy {line.greedy}, "
                f"average {line.average}, one of the tries {line.best}"
            )
    parameters = sum(weight.numel() for weight in model.parameters())
    write_card(out, bench_card(recipe, HABITS, parameters, problems, lines))


def warm_start_with_progress(
    recipe: "Recipe",
    warm_start: "Callable[[Recipe, Callable[[int, float], None]], tuple[PreTrainedModel, PreTrainedTokenizerBase]]",
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """Make the model while a bar shows the steps, the loss and the time left."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

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
