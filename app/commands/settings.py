"""`lepo settings`: every setting with what it does, its default, and what it is now."""

import re
from typing import Final

import click

HEAD: Final = """\
# Settings

Each is an environment variable; secrets may also be files, `/run/secrets/lepo_<name>`. `lepo settings` shows the values
in force. This page is `lepo settings --markdown`.

| setting | default | what it does |
|---|---|---|
"""
PASSWORD: Final = re.compile(r"(?<=://)([^/@:]*):[^/@]*@")


@click.command("settings", short_help="List every setting, what it does, and its value now.")
@click.option("--markdown", is_flag=True, help="Write the page docs/settings.md instead: defaults only.")
def command(markdown: bool) -> None:
    """List every setting (LEPO_*), what it does, and its value in this environment. Secrets are not shown."""
    from app.settings import read_settings

    if markdown:
        click.echo(page(), nl=False)
        return
    settings = read_settings()
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        mark = " " if value == field.default else "*"
        click.echo(f"{mark} LEPO_{name.upper()}={shown(value)}\n      {field.description}")


def shown(value: object) -> str:
    """Write a value without the password that an address may hold."""
    return "" if value is None else PASSWORD.sub(r"\1:***@", str(value))


def page() -> str:
    """Compose docs/settings.md: one row per setting, in the order of `app.settings`."""
    from app.settings import Settings

    rows = []
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else f"`{field.default}`"
        rows.append(f"| `LEPO_{name.upper()}` | {default} | {field.description} |\n")
    return HEAD + "".join(rows)
