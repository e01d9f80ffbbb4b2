"""`lepo export`: problems of a generated family as a JSONL file, for `lepo train` and `lepo eval`."""

from pathlib import Path

import click


@click.command("export", short_help="Write problems of a generated family to a file.")
@click.argument("family")
@click.option("--split", default="train", show_default=True, type=click.Choice(["train", "validation", "test"]))
@click.option("--count", default=1000, show_default=True, type=click.IntRange(min=1), help="Distinct problems.")
@click.option("--seed", default=0, show_default=True, help="Names the choice; splits never meet, whatever the seed.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="The file; - is stdout.",
)
def command(family: str, split: str, count: int, seed: int, out: Path) -> None:
    """Write COUNT problems of FAMILY, one JSON object with prompt, answer and grader per line."""
    from training.tasks.families import generate
    from training.tasks.jsonl import as_lines, write_problems
    from training.tasks.splits import Split
    from worker.offline.sources import told

    with told():
        problems = generate(family, Split(split), count, seed=seed)
        if str(out) == "-":
            click.echo(as_lines(problems), nl=False)
        else:
            write_problems(out, problems)
            click.echo(f"{count} {split} problems of {family} in {out}")
