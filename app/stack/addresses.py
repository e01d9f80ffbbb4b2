"""Where Postgres and Redis are: as set, or where `lepo up` runs them in the same var directory.

Leaves out starting them (`app.stack.stack`).
"""

from app.errors import Unavailable
from app.settings import Settings
from app.stack.postgres import SOCKET, EmbeddedPostgres
from app.stack.redis import EmbeddedRedis


def database_address(settings: Settings) -> str:
    """Give the address of Postgres for SQLAlchemy.

    Raises:
        Unavailable: none is set and none is embedded here.

    """
    if settings.database_url is not None:
        return settings.database_url
    embedded = EmbeddedPostgres(settings.var_dir)
    if not (embedded.socket_dir / SOCKET).exists():
        raise Unavailable(
            f"No database: set LEPO_DATABASE_URL, or start `lepo up`, whose Postgres lives in {settings.var_dir}"
        )
    return embedded.url()


def redis_address(settings: Settings) -> str:
    """Give the address of Redis in Celery's form (`app.stack.redis.client_url` turns it into redis-py's).

    Raises:
        Unavailable: none is set and none is embedded here.

    """
    if settings.redis_url is not None:
        return settings.redis_url
    embedded = EmbeddedRedis(settings.var_dir)
    if not embedded.socket.exists():
        raise Unavailable(f"No Redis: set LEPO_REDIS_URL, or start `lepo up`, whose Redis lives in {settings.var_dir}")
    return embedded.url()
