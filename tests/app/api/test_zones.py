"""A moment without a zone is UTC, wherever the database believes to be."""

from datetime import UTC, timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from app.store.tables import Interaction
from tests.app.api.live import served


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
def test_since_without_a_zone_is_utc(
    postgres_url: str, database_url: str, model_dir: Path, tmp_path: Path, zone: str
) -> None:
    address = make_url(postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address, autocommit=True) as connection:
        name = sql.Identifier(str(make_url(database_url).database))
        connection.execute(sql.SQL("ALTER DATABASE {} SET timezone TO {}").format(name, sql.Literal(zone)))
    with served(database_url, model_dir, tmp_path) as live:
        shown = live.answer()["choices"][0]["interaction_id"]
        with live.store.session() as session:
            made = session.get_one(Interaction, UUID(shown.removeprefix("int_"))).created_at.astimezone(UTC)
        for minutes, found in ((-1, 1), (1, 0)):
            moment = made + timedelta(minutes=minutes)
            for written in (moment.replace(tzinfo=None).isoformat(), moment.isoformat().replace("+00:00", "Z")):
                page = live.http("admin").get("/v1/interactions", params={"since": written}).json()
                assert len(page["data"]) == found, written
                page = live.http("admin").get("/v1/interactions", params={"until": written}).json()
                assert len(page["data"]) == 1 - found, written
