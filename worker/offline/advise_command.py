"""`lepo model advise`: measure on a model and on problems of one's own whether latent steps pay."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from worker.offline.recipe import SMALL

if TYPE_CHECKING:
    from rich.table import Table

    from worker.offline.advise import Findings, Plan
    from worker.offline.problem_set import ProblemSet
    from worker.offline.train import Around


@click.command("advise", short_help="Measure whether, where and how many latent steps pay on a model.")
@click.argument("name")
@click.option("--data", required=True, help="Problems to learn from: as `lepo train --data` takes them.")
@click.option("--test", help="Problems to ask, likewise; a part of the data is set aside when not given.")
@click.option("--problems", default=48, show_default=True, type=click.IntRange(min=2), help="Of them, the first ones.")
@click.option("--k", default=8, show_default=True, type=click.IntRange(min=1), help="Answers to each.")
@click.option(
    "--latent-length",
    "lengths",
    multiple=True,
    default=(4,),
    show_default=True,
    type=click.IntRange(min=1),
    help="Latent steps to try; may be given several times. Tokens alone are always tried.",
)
@click.option(
    "--placement",
    "places",
    multiple=True,
    type=click.Choice(["answer", "thinking", "preamble"]),
    help="Where to try them; may be given several times.  [wherever the model has a place]",
)
@click.option("--updates", default=8, show_default=True, type=click.IntRange(min=0), help="0: look, and learn nothing.")
@click.option("--prompts", default=16, show_default=True, type=click.IntRange(min=1), help="Problems of an update.")
@click.option("--group", default=8, show_default=True, type=click.IntRange(min=2), help="Answers to each.")
@click.option("--learning-rate", default=2e-5, show_default=True, type=float)
@click.option("--tau", default=SMALL.tau, show_default=True, type=float, help="Temperature of the latent steps.")
@click.option("--draws", default=SMALL.draws, show_default=True, type=int, help="Samples whose mean a step is.")
@click.option("--max-tokens", default=48, show_default=True, type=click.IntRange(min=1), help="Of an answer.")
@click.option("--lora-rank", default=0, show_default=True, type=click.IntRange(min=0), help="0: all weights learn.")
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16"]))
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=click.IntRange(min=1), help="torch threads; torch's choice when not given.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 1000), help="Of data, noise and split.")
@click.option("--save", is_flag=True, help="Keep it: a service on this model takes the advised settings by default.")
@click.option("--json", "as_json_", is_flag=True, help="Print JSON instead of tables.")
def command(
    name: str,
    data: str,
    test: str | None,
    problems: int,
    k: int,
    lengths: tuple[int, ...],
    places: tuple[str, ...],
    updates: int,
    prompts: int,
    group: int,
    learning_rate: float,
    tau: float,
    draws: int,
    max_tokens: int,
    lora_rank: int,
    dtype: str,
    device: str,
    threads: int | None,
    seed: int,
    *,
    save: bool,
    as_json_: bool,
) -> None:
    """Measure on the model NAME ('demo', 'smollm2', a directory, a GGUF file or a hub name) whether latent steps pay.

    Every way of answering is asked the test problems as the model is; then tokens alone and the best way of latent
    steps learn from the same base, and are asked again. Latent steps are advised where they end above tokens beyond
    chance. --save keeps that in LEPO_VAR_DIR; settings of the environment win over it.
    """
    import torch

    from app.advice import keep_advice
    from app.settings import read_settings
    from worker.offline.advise import PLACES, Plan, advise, as_json, settings_of, ways_of
    from worker.offline.models import open_model
    from worker.offline.recipe import recipe_for
    from worker.offline.sources import told

    if threads:
        torch.set_num_threads(threads)
    changes: dict[str, Any] = {
        "prompts": prompts,
        "group": group,
        "learning_rate": learning_rate,
        "tau": tau,
        "draws": draws,
    }
    changes |= {"max_new": max_tokens, "lora_rank": lora_rank, "dtype": dtype, "seed": seed, "latent_length": 0}
    with told():
        recipe = recipe_for("small", name, changes)
    problem_set = read(data, test, seed, problems)
    policy = open_model(name, version=0, dtype=dtype, device=device)
    ways = ways_of(policy, lengths, [place for place in PLACES if not places or place in places])
    del policy
    if not ways:
        raise click.UsageError(f"--placement {', '.join(places)}: this model has no such place")
    plan = Plan(name, data, ways, recipe, updates, k)
    with watched(device) as around:
        findings = advise(plan, problem_set, around)
    if as_json_:
        click.echo(json.dumps(as_json(plan, findings)))
    else:
        show(plan, findings)
    if save:
        kept = keep_advice(read_settings().var_dir, name, settings_of(plan, findings.advised), as_json(plan, findings))
        click.echo(f"kept in {kept}: LEPO_MODEL={name} answers so from its next start", err=as_json_)


def read(data: str, test: str | None, seed: int, most: int) -> "ProblemSet":
    """Read what is learned from and what is asked, and refuse them where they meet."""
    from training.tasks.gym import is_gym
    from training.tasks.splits import Split
    from worker.offline.problem_set import ProblemSet, split
    from worker.offline.sources import read_source, require_apart

    learned, asked = read_source(data), test or (data if is_gym(data) else None)
    if asked is None:
        parts = split(learned, seed)
        return ProblemSet(parts.train, parts.validation[:most])
    held_out = read_source(asked, Split.TEST)[:most]
    require_apart(learned, held_out, asked)
    return ProblemSet(tuple(learned), tuple(held_out))


@contextmanager
def watched(device: str) -> "Iterator[Around]":
    """Show what is being done while it is done."""
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    from training.distributed.ranks import ALONE
    from worker.offline.train import Around

    with Progress(TextColumn("{task.description}"), TimeElapsedColumn(), console=Console(stderr=True)) as bars:
        bar = bars.add_task("loading")

        def record(step: int, figures: Mapping[str, Any]) -> None:
            reward = "no grade" if figures["reward"] is None else f"{figures['reward']:.3f}"
            bars.console.print(f"  {figures['way']}, update {step}: reward {reward}", highlight=False)

        def tell(what: str, done: int, total: int) -> None:
            bars.update(bar, description=f"{what} {done}/{total}")

        def say(line: str) -> None:
            bars.console.print(f"  {line}", highlight=False)

        yield Around(device, ALONE, record, tell, say, threading.Event())


def show(plan: "Plan", findings: "Findings") -> None:
    """Print the tables, the verdict and the settings that follow."""
    from rich.console import Console

    from worker.offline.advise import settings_of

    console = Console()
    console.print(looks_table(plan, findings))
    if findings.tokens and findings.latents:
        console.print(learned_table(plan, findings))
    console.print(findings.words, highlight=False)
    for name, value in settings_of(plan, findings.advised).items():
        console.print(f"  LEPO_{name.upper()}={value}", highlight=False)


def looks_table(plan: "Plan", findings: "Findings") -> "Table":
    """Lay out how each way answers before learning."""
    from rich.table import Table

    table = Table(
        "before learning", f"avg@{plan.k}", f"pass@{plan.k}", "ms an answer", title=f"{plan.model} on {plan.data}"
    )
    for way, one in findings.looks.items():
        table.add_row(way.name, percent(one.average), percent(one.passed), f"{1000 * one.seconds:.0f}")
    return table


def learned_table(plan: "Plan", findings: "Findings") -> "Table":
    """Lay out what the two ways learned."""
    from rich.table import Table

    table = Table("after learning", f"avg@{plan.k}", "gain", f"pass@{plan.k}", "rewards of the batches", "s an update")
    for one in filter(None, (findings.tokens, findings.latents)):
        gain = 100 * (one.after.average.value - one.before.average.value)
        rewards = " ".join(f"{reward:.2f}" for reward in one.rewards)
        shown = percent(one.after.average), f"{gain:+.1f}", percent(one.after.passed), rewards, f"{one.seconds:.0f}"
        table.add_row(one.way.name, *shown)
    return table


def percent(one: Any) -> str:
    """Write an estimate in percent, with its interval."""
    return f"{100 * one.value:.1f} ({100 * one.low:.0f}-{100 * one.high:.0f})"
