"""How a command reaches the running service: which address, which key, and what to do when it says no.

The address: `--url` or LEPO_URL, else the stack that runs in LEPO_VAR_DIR, else LEPO_HOST and LEPO_PORT. The key:
`--key` or LEPO_API_KEY, else what that stack left for its owner, else LEPO_ADMIN_KEY where no address was given.
Leaves out the requests (`app.client`).
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from app.client import Lepo, LepoRefused
    from app.settings import Settings

NO_KEY = (
    "No key: name one with --key or LEPO_API_KEY. Where the database can be reached, a new one is made by: "
    "lepo keys create NAME --scope admin --direct"
)
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Where:
    """The service that is asked, and with which key."""

    url: str
    key: str | None
    why: str  # how it was found, for error messages


def asks(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a connection, and a client as its first argument."""

    @click.option("--url", envvar="LEPO_URL", show_envvar=True, help="The service; else the stack of LEPO_VAR_DIR.")
    @click.option("--key", "api_key", envvar="LEPO_API_KEY", help="An API key; better in LEPO_API_KEY.")
    @functools.wraps(command)
    def asking(url: str | None, api_key: str | None, **named: Any) -> None:
        with service(url, api_key) as lepo:
            command(lepo, **named)

    return asking


@contextmanager
def service(url: str | None, api_key: str | None) -> "Iterator[Lepo]":
    """Open a client; what the service refuses is told in a line.

    Raises:
        click.ClickException: no key is known, nothing answers, or the service said no.

    """
    from app.client import Lepo, LepoRefused, LepoUnreachable, Retries
    from app.settings import read_settings

    where = found(read_settings(), url, api_key)
    if where.key is None:
        raise click.ClickException(NO_KEY)
    try:
        with Lepo(where.url, where.key, timeout_s=TIMEOUT_S, retries=Retries(times=2, first_s=0.2)) as lepo:
            yield lepo
    except LepoRefused as error:
        raise click.ClickException(refused(error, where)) from error
    except LepoUnreachable as error:
        raise click.ClickException(
            f"Nothing answers at {where.url} ({where.why}). Start it (lepo up), or name another: --url or LEPO_URL. "
            "What is amiss: lepo doctor"
        ) from error


def found(settings: "Settings", url: str | None, api_key: str | None) -> Where:
    """Find the service and the key."""
    from app.stack.address_file import running_address

    if url is not None:
        return Where(url.rstrip("/"), api_key, "--url or LEPO_URL")
    fixed = None if settings.admin_key is None else settings.admin_key.get_secret_value()
    here = running_address(settings.var_dir)
    if here is not None and here.url is not None:
        return Where(here.url, api_key or here.key, f"the stack in {settings.var_dir}")
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104 - not bound
    return Where(f"http://{host}:{settings.port}", api_key or fixed, "LEPO_HOST and LEPO_PORT")


def refused(error: "LepoRefused", where: Where) -> str:
    """Say what the service said, and what to do where that is about the key."""
    words = {
        401: f" {where.url} was asked; name another key with --key or LEPO_API_KEY.",
        403: " Name a key that may: --key or LEPO_API_KEY.",
    }
    said = str(error).partition(": ")[2]
    return f"{said}{words.get(error.status, '')}"
