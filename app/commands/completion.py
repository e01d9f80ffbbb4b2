"""`lepo completion`: what a shell needs to complete commands, options and their choices, from the real parser.

The script asks `lepo` itself at every Tab, so it is never older than the command. Leaves out installing it.
"""

import click

VARIABLE = "_LEPO_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


@click.command("completion", short_help="Print a shell's completion of this command.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion for SHELL. For this shell alone: eval "$(lepo completion bash)".

    \b
    For good:
      lepo completion bash > ~/.local/share/bash-completion/completions/lepo
      lepo completion zsh > ~/.zfunc/_lepo      (with ~/.zfunc in fpath, before compinit)
      lepo completion fish > ~/.config/fish/completions/lepo.fish
    """  # noqa: D301 - click reads the backspace
    from click.shell_completion import ShellComplete, get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows the shells of the choice"
    script = kind(ctx.find_root().command, {}, "lepo", VARIABLE)
    click.echo(ShellComplete.source(script))  # of bash, click would ask its version first
