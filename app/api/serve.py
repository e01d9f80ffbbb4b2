"""`lepo serve`: the HTTP server, one process with one engine.

Light at import. On SIGTERM it stops listening, lets answers under way finish for LEPO_DRAIN_SECONDS, records the rest
as cancelled, and ends. Leaves out Postgres, Redis and migrations (`lepo up`, `lepo migrate`).
"""

from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from types import FrameType

    from app.settings import Settings
    from app.store.connect import Store


@click.command("serve", short_help="Run the HTTP server.")
@click.option("--host", help="Address to listen on; otherwise LEPO_HOST.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; otherwise LEPO_PORT.")
def command(host: str | None, port: int | None) -> None:
    """Answer requests on an OpenAI-compatible API, remember every answer, and follow the served policy.

    Needs a migrated database (`lepo migrate`); `lepo up` runs everything at once.
    """
    from app.settings import read_settings

    settings = read_settings()
    wishes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    serve(settings.model_copy(update=wishes))


def serve(settings: "Settings") -> None:
    """Run until a signal ends it.

    Raises:
        Unavailable: the database is away.
        click.ClickException: it is not migrated, or the model cannot be served.

    """
    import logging
    import signal

    from app.stack.addresses import database_address
    from app.store.connect import open_store

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    url = database_address(settings)
    traffic, control = open_store(url, settings.database_pool), open_store(url, settings.control_pool)
    try:
        require_migrated(control)
        admit_an_administrator(settings, control)
        answer(settings, traffic, control)
    finally:
        traffic.close()
        control.close()


def answer(settings: "Settings", traffic: "Store", control: "Store") -> None:
    """Load the model, then listen until a signal comes and the drain is over."""
    import torch

    from app.api.draining import DrainingServer
    from app.api.factory import create_app
    from app.api.first_policy import first_policy
    from app.api.server import Parts
    from app.engine.config import EngineConfig
    from app.engine.engine import Engine
    from app.redaction.hook import load_redactor

    torch.set_num_threads(1)  # the engine's thread has LEPO_THREADS; see `Engine.start`
    try:
        load_redactor(settings.redact)
        policy = first_policy(settings, control)
        engine = Engine(policy, EngineConfig.from_settings(settings))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    parts = Parts(settings, engine, policy.tokenizer, traffic, control, bell_address(settings))
    DrainingServer.of(create_app(parts), engine, settings).run()


def leave(_signal: int, _frame: "FrameType | None") -> NoReturn:
    """End at once while starting, and with status 0 after a drain: uvicorn raises its signals again when it is done."""
    raise SystemExit(0)


def admit_an_administrator(settings: "Settings", store: "Store") -> None:
    """Keep LEPO_ADMIN_KEY, or, when it is unset and nobody holds an admin key, make one and print it, this once.

    Raises:
        click.ClickException: LEPO_ADMIN_KEY is not a key, or its id is taken by another secret.

    """
    from app.store.keys import first_admin_key

    chosen = None if settings.admin_key is None else settings.admin_key.get_secret_value()
    try:
        with store.session() as session:
            key = first_admin_key(session, chosen)
    except ValueError as error:
        raise click.ClickException(f"LEPO_ADMIN_KEY: {error}") from error
    if chosen is None and key is not None:
        click.echo(f"Admin key, shown this once: {key}")


def require_migrated(store: "Store") -> None:
    """Refuse a database of another release.

    Raises:
        click.ClickException: it is not migrated.
        Unavailable: it is away.

    """
    from app.store.migrate import is_current

    with store.session() as session:
        if not is_current(session.connection()):
            raise click.ClickException("The database is not at this release's schema; run: lepo migrate")


def bell_address(settings: "Settings") -> str | None:
    """Give Redis' address for redis-py; None where there is no Redis, and polling does."""
    from app.errors import Unavailable
    from app.stack.addresses import redis_address
    from app.stack.redis import client_url

    try:
        return client_url(redis_address(settings))
    except Unavailable:
        return None
