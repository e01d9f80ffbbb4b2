"""`lepo reference`: pages of the documentation that the code writes itself, as Markdown."""

import click


@click.command("reference", short_help="Print a page of reference that the code writes itself.")
@click.argument("page", type=click.Choice(["commands", "metrics", "events"]))
@click.pass_context
def command(ctx: click.Context, page: str) -> None:
    """Print PAGE as Markdown. Settings: lepo settings --markdown."""
    from app.reference import commands, events, metrics

    root = ctx.find_root().command
    assert isinstance(root, click.Group), "it was called as `lepo`"
    pages = {"commands": lambda: commands.page(root), "metrics": metrics.page, "events": events.page}
    click.echo(pages[page](), nl=False)
