"""The door `lepo bench store`: how long the overview and every kind of listing take over millions of answers.

A Postgres of its own, with the settings of one as it is installed but for what a crash would cost. Each question is
asked once on what the filling left in memory (`first_ms`) and then a few times (`median_ms`). Leaves out writing:
`lepo bench http` has it.
"""

import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import click

from benchmarks.report import Bound, finish, judged

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from app.store.connect import Store

LIMIT_MS: Final = 50.0
UNSAFE: Final = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "2GB",
}
AGES: Final[dict[str, dict[str, float]]] = {"until long ago": {"until": 150}, "since long ago": {"since": 150}}  # days
FILTERS: Final[dict[str, dict[str, Any]]] = {
    "all": {},
    "a user": {"user_tag": "user77"},
    "an absent user": {"user_tag": "nobody"},
    "a user in a tenth": {"user_tag": "anonymous"},
    "a key": {"api_key_id": "key0"},
    "a rare key": {"api_key_id": "key7"},
    "an absent key": {"api_key_id": "nokey"},
    "an old version": {"policy_version": 3},
    "an absent version": {"policy_version": 5000},
    "graded": {"graded": True},
    "shadow": {"shadow": True},
    "learned by": {"learned_by": 500},
    "a key and an absent user": {"api_key_id": "key0", "user_tag": "nobody"},
    "a rare key and a frequent user": {"api_key_id": "key7", "user_tag": "anonymous"},
    "a key and an old version": {"api_key_id": "key0", "policy_version": 3},
    "a rare key, graded": {"api_key_id": "key7", "graded": True},
    "a frequent user, none graded": {"user_tag": "anonymous", "graded": True},
}


@click.command("store")
@click.option("--rows", default=1_000_000, show_default=True, type=click.IntRange(min=1000), help="Answers.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(min=1), help="Times each is asked again.")
@click.option("--directory", type=click.Path(file_okay=False, path_type=Path), help="Where Postgres puts its files.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON here too.")
def command(rows: int, repeats: int, directory: Path | None, as_json: bool, out: Path | None) -> None:
    """Fill a Postgres with answers (about 1 KB of disk each), and ask for the overview and for pages of listings."""
    with tempfile.TemporaryDirectory(prefix="lepo-store-", dir=directory, ignore_cleanup_errors=True) as var_dir:
        finish(measure(Path(var_dir), rows, repeats), as_json=as_json, out=out)


def measure(var_dir: Path, rows: int, repeats: int) -> dict[str, Any]:
    """Fill and ask; returns the report."""
    from app.stack.postgres import EmbeddedPostgres
    from app.stack.supervisor import Supervisor
    from app.store.budgets import MIGRATION
    from app.store.connect import open_store
    from app.store.migrate import upgrade
    from benchmarks.store.fill import fill
    from benchmarks.timing import machine

    facts = machine()
    with Supervisor(var_dir) as supervisor:
        server = EmbeddedPostgres(supervisor.var_dir, options=UNSAFE)
        server.prepare()
        supervisor.start(server.child())
        upgrade(server.url())
        with closing(open_store(server.url(), budget=MIGRATION)) as store:
            filled_s = fill(store, rows, partial(click.echo, err=True))
            figures, plans = asked(store, repeats)
            megabytes = sizes(store)
    report: dict[str, Any] = {
        "benchmark": "store",
        "machine": facts,
        "settings": {"rows": rows, "repeats": repeats},
        "filled_s": round(filled_s),
        "megabytes": megabytes,
        "slowest_ms": max(one["median_ms"] for one in figures.values()),
        "asked": figures,
        "raw": plans,
    }
    return report | {"bounds": judged(report, (Bound("slowest_ms", LIMIT_MS, "at most"),))}


def questions() -> dict[str, "Callable[[Session], Any]"]:
    """Name what is asked."""
    from app.store.interactions import Filters, list_interactions
    from app.store.overview import overview

    now = datetime.now(UTC)
    filters = {name: Filters(**given) for name, given in FILTERS.items()}
    for name, ages in AGES.items():
        times: dict[str, Any] = {field: now - timedelta(days=days) for field, days in ages.items()}
        filters[name] = Filters(**times)
    pages = {f"list: {name}": partial(list_interactions, filters=one) for name, one in filters.items()}
    return {"overview": overview, **pages}


def asked(store: "Store", repeats: int) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Ask everything; returns the milliseconds, and how Postgres found it."""
    figures: dict[str, Any] = {}
    plans: dict[str, list[str]] = {}
    for name, question in questions().items():
        spent = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            with store.session() as session:
                question(session)
            spent.append(1000 * (time.perf_counter() - began))
        figures[name] = {"first_ms": round(spent[0], 1), "median_ms": round(median(spent[1:]), 1)}
        plans[name] = planned(store, question)
        click.echo(f"{name}: {figures[name]}", err=True)
    return figures, plans


def planned(store: "Store", question: "Callable[[Session], Any]") -> list[str]:
    """Ask once more, and note which index or table each statement reads how."""
    from sqlalchemy import event, text

    heard: list[tuple[str, Any]] = []

    def hear(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        heard.append((statement, parameters))

    event.listen(store.engine, "before_cursor_execute", hear)
    try:
        with store.session() as session:
            question(session)
    finally:
        event.remove(store.engine, "before_cursor_execute", hear)
    scans = []
    with store.session() as session:
        connection = session.connection()
        for statement, parameters in heard:
            if statement.lstrip().startswith(("SELECT", "WITH")):
                lines = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars()
                scans += [line.strip().removeprefix("->  ").split("  (")[0] for line in lines if "Scan" in line]
        connection.execute(text("SELECT 1"))
    return list(dict.fromkeys(scans))


def sizes(store: "Store") -> dict[str, int]:
    """Measure tables with their indexes, in MB."""
    from sqlalchemy import text

    tables = ("requests", "interactions", "grades", "claims", "tallies")
    with store.session() as session:
        return {
            table: round(session.scalars(text(f"SELECT pg_total_relation_size('{table}')")).one() / 1e6)
            for table in tables
        }
