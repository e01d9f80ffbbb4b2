"""`lepo eval`: how well a model answers a file or a known data set, with intervals."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from training.models.policy import Policy
    from training.tasks.problem import Problem
    from worker.offline.answers import Asking
    from worker.offline.evaluate import Record


@click.command("eval", short_help="Measure a model on problems: greedy, avg@k, pass@k, with intervals.")
@click.option(
    "--data",
    required=True,
    help="FILE.jsonl, gsm8k:test, gsm8k:FILE, gsm8k:test:DIRECTORY, or reasoning_gym:NAME[:key=value,...].",
)
@click.option(
    "--model",
    required=True,
    help="'demo', 'smollm2', a directory, a GGUF file, or a hub name.",
)
@click.option("--k", default=8, show_default=True, type=click.IntRange(min=1), help="The k of avg@k and pass@k.")
@click.option("--samples", type=click.IntRange(min=1), help="Answers drawn per problem, k or more.  [default: k]")
@click.option(
    "--latent-length",
    "latent_lengths",
    multiple=True,
    default=(4,),
    show_default=True,
    type=click.IntRange(min=0),
    help="Latent steps before the first token; 0 is token inference. May be given several times.",
)
@click.option(
    "--placement",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "answer", "thinking", "preamble"]),
    help="Where latent steps sit; auto: as the model was trained, else so that answers are whole.",
)
@click.option("--lead-in", default="", help="Text before the latent steps of a preamble.")
@click.option("--lead-out", default="", help="Text after them; empty: the end of the assistant's turn and a new one.")
@click.option("--tau", default=0.5, show_default=True, type=float, help="Temperature of the latent steps.")
@click.option("--draws", default=1, show_default=True, type=int, help="Samples whose mean a latent step is.")
@click.option("--temperature", default=1.0, show_default=True, type=float, help="Of the sampled answers.")
@click.option("--top-k", default=30, show_default=True, type=int, help="Candidates kept per step.")
@click.option("--top-p", default=0.95, show_default=True, type=float, help="Nucleus kept per step.")
@click.option("--max-new", default=2048, show_default=True, type=int, help="Latent steps plus tokens of an answer.")
@click.option("--limit", type=click.IntRange(min=1), help="Ask only the first so many problems.")
@click.option(
    "--part",
    type=click.Choice(["all", "open", "sealed"]),
    default="all",
    show_default=True,
    help="Of a held-out file: what the gate asks, or what it never asks and one may quote (LEPO_HELDOUT_SEALED).",
)
@click.option("--against", multiple=True, help="Training data (as --data): refuse when a problem is in both.")
@click.option("--greedy/--no-greedy", default=True, show_default=True, help="Ask for the greedy answer too.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Problem i has seed + i.")
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16"]))
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--slots", default=32, show_default=True, type=click.IntRange(min=1), help="Answers decoded together.")
@click.option("--threads", type=click.IntRange(min=1), help="torch threads; torch's choice when not given.")
@click.option("--grader-timeout", default=10.0, show_default=True, type=float, help="Seconds per answer.")
@click.option("--records", type=click.Path(path_type=Path, dir_okay=False), help="Write a JSON line per problem here.")
@click.option("--json", "as_json_", is_flag=True, help="Print JSON instead of the table.")
def command(
    data: str,
    model: str,
    k: int,
    samples: int | None,
    latent_lengths: tuple[int, ...],
    placement: str,
    lead_in: str,
    lead_out: str,
    tau: float,
    draws: int,
    temperature: float,
    top_k: int,
    top_p: float,
    max_new: int,
    limit: int | None,
    part: str,
    against: tuple[str, ...],
    *,
    greedy: bool,
    seed: int,
    dtype: str,
    device: str,
    slots: int,
    threads: int | None,
    grader_timeout: float,
    records: Path | None,
    as_json_: bool,
) -> None:
    """Answer every problem greedily once and sampled k times, grade the answers, and print the shares that are right.

    Answers without a grade and graders that failed are counted apart: they are never wrong answers.
    """
    import json
    from itertools import chain

    import torch
    from rich.console import Console

    from training.sampling import Sampling
    from training.tasks.splits import Split
    from worker.offline.answers import Asking
    from worker.offline.models import open_model
    from worker.offline.score_table import as_json, score_table, write_records
    from worker.offline.scores import score
    from worker.offline.sources import read_source, require_apart, told

    number = samples or k
    if number < k:
        raise click.UsageError(f"--samples {number} is less than --k {k}: draw k or more")
    if max_new <= max(latent_lengths):
        raise click.UsageError(
            f"--max-new {max_new} leaves no token after {max(latent_lengths)} latent steps: raise it"
        )
    if threads:
        torch.set_num_threads(threads)
    with told():
        samplings = [Sampling(length, tau, temperature, top_k, top_p, seed, draws) for length in latent_lengths]
        askings = [Asking(one, max_new, number, slots, placement, lead_in, lead_out) for one in samplings]  # type: ignore[arg-type]  # a click.Choice
    problems = part_of(read_source(data, Split.TEST), part)[:limit]
    require_apart(chain.from_iterable(map(read_source, against)), problems, data)
    policy = open_model(model, version=0, dtype=dtype, device=device)
    if records:
        records.write_text("", encoding="utf-8")
    scores = []
    for asking in askings:
        answered = evaluate_with_progress(policy, problems, asking, greedy=greedy, deadline_s=grader_timeout)
        scores += [(asking.sampling.latent_length, one) for one in score([one.marked for one in answered], k)]
        if records:
            write_records(records, asking.sampling.latent_length, answered)
    if as_json_:
        shown = [as_json(length, one) for length, one in scores]
        click.echo(json.dumps({"data": data, "model": model, "k": k, "samples": number, "tau": tau, "scores": shown}))
        return
    Console().print(score_table(scores, k, f"{model} on {data}"))


def part_of(problems: "list[Problem]", part: str) -> "list[Problem]":
    """Take a part of a held-out file, divided as the gate divides it."""
    from app.held_out_lines import sealed_of
    from app.settings import read_settings

    if part == "all":
        return problems
    sealed = sealed_of([problem.prompt for problem in problems], read_settings().heldout_sealed)
    return [problem for problem, secret in zip(problems, sealed, strict=True) if secret == (part == "sealed")]


def evaluate_with_progress(
    policy: "Policy", problems: "list[Problem]", asking: "Asking", *, greedy: bool, deadline_s: float
) -> "list[Record]":
    """Evaluate while a bar on standard error counts the answers."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from worker.offline.evaluate import evaluate

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        total = len(problems) * (asking.choices + greedy)
        bar = bars.add_task(f"Answers, {asking.sampling.latent_length} latents", total=total)
        return evaluate(
            policy,
            problems,
            asking,
            greedy=greedy,
            deadline_s=deadline_s,
            progress=lambda more: bars.advance(bar, more),
        )
