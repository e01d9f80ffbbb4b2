"""`lepo serve`: the HTTP server, one process with one engine.

Light at import. On SIGTERM it stops listening, lets answers under way finish for LEPO_DRAIN_SECONDS, records the rest
as cancelled, and ends. Leaves out Postgres, Redis and migrations (`lepo up`, `lepo migrate`).
"""

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from socket import socket
    from types import FrameType

    from app.settings import Settings
    from app.store.connect import Store
    from app.telemetry.told import Telemetry

log = logging.getLogger("lepo.api")

SWITCH_S = 0.001  # how long a thread may keep the interpreter from the others: five times this costs /health its bound


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
        BadRequest: the held-out file cannot be used, or a collector is named and its packages are missing.
        click.ClickException: the port is taken, the database is not migrated, or the model cannot be served; or the
            engine failed under way.

    """
    import signal

    from app.held_out import require_held_out
    from app.stack.addresses import database_address
    from app.store.budgets import CONTROL, requests
    from app.store.connect import open_store
    from app.telemetry.log import set_up
    from app.telemetry.tracing import telemetry_of

    set_up(settings.log_format)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    require_held_out(settings)
    listener = bound(settings.host, settings.port)
    telemetry = telemetry_of(settings, "serve")
    url = database_address(settings)
    traffic = open_store(url, settings.database_pool, requests(settings.database_timeout))
    control = open_store(url, settings.control_pool, CONTROL)
    try:
        require_migrated(control)
        admit_an_administrator(settings, control)
        answer(settings, traffic, control, listener, telemetry)
    finally:
        telemetry.close()
        traffic.close()
        control.close()
        listener.close()


def answer(
    settings: "Settings", traffic: "Store", control: "Store", listener: "socket", telemetry: "Telemetry"
) -> None:
    """Load the model, then listen until a signal comes and the drain is over.

    Raises:
        click.ClickException: the model cannot be served, or the server broke under way: a process that can answer
            nothing ends, so that whoever runs it starts another.

    """
    import gc
    import sys

    import torch

    from app.api.draining import DrainingServer
    from app.api.factory import create_app
    from app.api.policy.first import first_policy
    from app.api.server import Parts
    from app.engine.config import EngineConfig
    from app.engine.engine import Engine
    from app.placements import placements_of
    from app.redaction.hook import load_redactor
    from app.telemetry.log import without_bars

    without_bars()
    sys.setswitchinterval(SWITCH_S)
    torch.set_num_threads(1)  # the engine's thread has LEPO_THREADS; see `Engine.start`
    try:
        load_redactor(settings.redact)
        policy = first_policy(settings, control)
        placements = placements_of(settings, policy)
        engine = Engine(policy, EngineConfig.from_settings(settings))
    except (ValueError, MemoryError) as error:
        raise click.ClickException(str(error)) from error
    log.info("memory: %s", engine.memory)
    parts = Parts(settings, engine, policy.tokenizer, placements, traffic, control, bell_address(settings), telemetry)
    server = DrainingServer.of(create_app(parts), engine, settings)
    gc.collect()
    gc.freeze()  # a million objects of libraries that stay: looking through them stops every thread for a good while
    server.run([listener])
    if server.failure is not None:
        raise click.ClickException(server.failure)


def leave(_signal: int, _frame: "FrameType | None") -> NoReturn:
    """End at once while starting, and with status 0 after a drain: uvicorn raises its signals again when it is done."""
    raise SystemExit(0)


def bound(host: str, port: int) -> "socket":
    """Take the address before a model is loaded for it; connections are refused until the server listens.

    Raises:
        click.ClickException: it is taken, or not this machine's.

    """
    import socket

    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as unless_bound:
            listener = unless_bound.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            unless_bound.pop_all()
    except OSError as error:
        why = f"Cannot listen on {host}:{port}: {error.strerror}. Set LEPO_HOST or LEPO_PORT."
        raise click.ClickException(why) from error
    return listener


def admit_an_administrator(settings: "Settings", store: "Store") -> None:
    """Keep LEPO_ADMIN_KEY; where it is unset and nobody holds an admin key, say how to make one.

    A key is never printed here: what a server prints is kept in logs.

    Raises:
        click.ClickException: LEPO_ADMIN_KEY is not a key, or its id is taken.

    """
    from app.store.keys import fix_admin_key, has_admin

    with store.session() as session:
        if settings.admin_key is None:
            if not has_admin(session):
                log.warning("nobody holds an admin key; make one: lepo keys create NAME --scope admin --direct")
            return
        try:
            key, replaced = fix_admin_key(session, settings.admin_key.get_secret_value())
        except ValueError as error:
            raise click.ClickException(f"LEPO_ADMIN_KEY: {error}") from error
    if key.revoked_at is not None:
        log.error("LEPO_ADMIN_KEY opens nothing: key %s was revoked on %s; set another", key.id, key.revoked_at.date())
    if replaced:
        log.warning("LEPO_ADMIN_KEY is now key %s; revoked: %s", key.id, ", ".join(replaced))


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
