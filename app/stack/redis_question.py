"""A few questions to Redis in its own protocol, over one connection that is closed again.

For health checks, which ask all day: importing a client costs more processor time than everything else they do. Leaves
out whatever else a client is for (`redis` is used everywhere else).
"""

import socket
from contextlib import closing
from io import BufferedReader
from typing import Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from app.errors import Unavailable

PATIENCE_S: Final = 3.0
DEFAULT_PORT: Final = 6379
UNIX: Final = ("redis+socket", "unix")

Reply = int | str | None


def ask(url: str, *commands: tuple[str, ...]) -> list[Reply]:
    """Send commands, and give their replies in order.

    Args:
        url: `redis://`, `rediss://` or `redis+socket:///path`, with user, password and database number as usual.
        commands: each with its arguments; of those whose reply is a number or a text.

    Raises:
        Unavailable: Redis does not answer, or answers with an error.

    """
    where = urlsplit(url)
    opening = entrance(where)
    try:
        with closing(connect(where)) as link, link.makefile("rb") as answers:
            link.sendall(b"".join(written(command) for command in [*opening, *commands]))
            return [reply(answers) for _ in [*opening, *commands]][len(opening) :]
    except OSError as error:
        raise Unavailable(f"Redis does not answer ({error})") from error


def entrance(where: SplitResult) -> list[tuple[str, ...]]:
    """Give the commands that come first: the password, the database."""
    first: list[tuple[str, ...]] = []
    if where.password:
        first.append(("AUTH", *filter(None, [unquote(where.username or "")]), unquote(where.password)))
    asked = parse_qs(where.query)
    database = asked.get("virtual_host", ["0"])[0] if where.scheme in UNIX else where.path.strip("/")
    if database not in {"", "0"}:
        first.append(("SELECT", database))
    return first


def connect(where: SplitResult) -> socket.socket:
    """Open a connection."""
    if where.scheme in UNIX:
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(PATIENCE_S)
        link.connect(where.path)
        return link
    link = socket.create_connection((where.hostname or "127.0.0.1", where.port or DEFAULT_PORT), PATIENCE_S)
    if where.scheme != "rediss":
        return link
    import ssl

    return ssl.create_default_context().wrap_socket(link, server_hostname=where.hostname)


def written(command: tuple[str, ...]) -> bytes:
    """Write a command as an array of bulk strings."""
    words = [word.encode() for word in command]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def reply(answers: BufferedReader) -> Reply:
    """Read one reply: a number, a line or a bulk string.

    Raises:
        ConnectionError: the connection ended.
        Unavailable: the reply is an error.

    """
    line = answers.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionError("the connection was closed")
    kind, text = line[:1], line[1:-2].decode()
    if kind == b"-":
        raise Unavailable(f"Redis says: {text}")
    if kind == b"$":
        length = int(text)
        return None if length < 0 else answers.read(length + 2)[:-2].decode()
    return int(text) if kind == b":" else text
