"""`lepo make-demo-model`: make the small model of the demo anew and measure it.

The recipe is `training.demo_model.recipe`; this door saves what it made, in the Hugging Face layout, with its figures.
"""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FAMILY = "chained_arithmetic"
SAY_EVERY = 100  # steps
TRIES = 8


@click.command("make-demo-model", short_help="Make the small model of the demo anew.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Directory for the model; training/demo_model/weights is the one that LEPO_MODEL=demo serves.",
)
@click.option("--steps", type=click.IntRange(1), help="Optimizer steps; without it, the recipe's.")
@click.option(
    "--problems", type=click.IntRange(1), default=300, show_default=True, help="Held-out problems to measure."
)
@click.option("--threads", type=click.IntRange(1), default=2, show_default=True, help="torch threads.")
def command(out: Path, steps: int | None, problems: int, threads: int) -> None:
    """Warm-start the demo model on worked chains of sums, save it, and print how much it solves.

    Takes minutes on two cores. The same recipe, thread count and torch give the same weights.
    """
    from dataclasses import asdict, replace

    import torch

    from training.demo_model.recipe import Recipe, warm_start

    torch.set_num_threads(threads)
    recipe = Recipe() if steps is None else replace(Recipe(), steps=steps)
    begun = time.monotonic()

    def say(step: int, loss: float) -> None:
        if step % SAY_EVERY == 0 or step == recipe.steps:
            click.echo(f"step {step:>5}/{recipe.steps}  loss {loss:.4f}  {time.monotonic() - begun:.0f} s")

    model, tokenizer = warm_start(recipe, say)
    seconds = time.monotonic() - begun
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    figures = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": round(seconds, 1),
        "threads": threads,
        "torch": torch.__version__,
        "recipe": asdict(recipe),
        "problems": problems,
        **measured(model, tokenizer, problems),
    }
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    click.echo(json.dumps(figures, indent=2))


def measured(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", count: int) -> dict[str, float]:
    """Ask held-out problems greedily, by sampled tokens and by sampled latent steps; shares of right answers."""
    from training.demo_model.measurement import measure
    from training.sampling import Sampling
    from training.tasks.families import generate
    from training.tasks.splits import Split

    asked = generate(FAMILY, Split.VALIDATION, count, seed=0)
    greedy = measure(model, tokenizer, asked, Sampling(latent_length=0, temperature=0.0), 1)
    tokens = measure(model, tokenizer, asked, Sampling(latent_length=0), TRIES)
    latents = measure(model, tokenizer, asked, Sampling(latent_length=4), TRIES)
    return {
        "greedy": greedy.average,
        f"tokens_avg_at_{TRIES}": tokens.average,
        f"tokens_pass_at_{TRIES}": tokens.best,
        f"latent_avg_at_{TRIES}": latents.average,
        f"latent_pass_at_{TRIES}": latents.best,
    }
