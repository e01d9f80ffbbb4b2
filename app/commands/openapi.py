"""`lepo openapi`: the document of the API, as a running server gives it at `/openapi.json`."""

import json

import click


@click.command("openapi", short_help="Write the description of the API, as JSON.")
def command() -> None:
    """Write the document of the API; `docs/openapi.json` is what it writes. Needs neither a model nor a database."""
    click.echo(text(), nl=False)


def text() -> str:
    """Write the document."""
    from fastapi import FastAPI

    from app.api.factory import with_routes

    return json.dumps(with_routes(FastAPI()).openapi(), indent=1, ensure_ascii=False) + "\n"
