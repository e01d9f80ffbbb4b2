"""What a request leaves in the store: its body once, its answers before their last byte, or nothing if it says so."""

import json
import os
import socket
import threading
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from openai import OpenAI
from sqlalchemy import func, select, text

from app.store.interactions import rollout
from app.store.tables import Interaction, StoredRequest
from tests.app.api.live import Live, served, sse, wait_for
from tests.app.api.test_data import everything
from training.codec import decode

ASK: dict[str, Any] = {"model": "lepo", "messages": [{"role": "user", "content": "What is 2 + 3"}], "max_tokens": 4}


def rows(live: Live, **where: Any) -> list[Interaction]:
    with live.store.session() as session:
        return list(session.scalars(select(Interaction).filter_by(**where).order_by(Interaction.id)))


def requests(live: Live) -> int:
    with live.store.session() as session:
        return session.scalars(select(func.count()).select_from(StoredRequest)).one()


def size(live: Live) -> int:
    with live.store.session() as session:
        sizes = "pg_total_relation_size('requests') + pg_total_relation_size('interactions')"
        return int(session.scalars(text(f"SELECT {sizes}")).one())


def test_a_large_body_is_stored_once_for_all_its_choices(live: Live) -> None:
    before, many = size(live), requests(live)
    grader = {"type": "string_check", "operation": "eq", "reference": os.urandom(5000).hex()}  # does not compress
    response = live.chat(n=64, max_tokens=3, user="large", grader=grader)
    assert response.status_code == 200, response.text
    found = rows(live, user_tag="large")
    assert len(found) == 64
    assert requests(live) == many + 1
    assert {row.request_id for row in found} == {found[0].request_id}
    assert found[5].grader == grader
    assert size(live) - before < 300_000, "64 copies are 640,000 bytes"


def test_several_prompts_are_one_request_and_each_answer_knows_its_own(live: Live) -> None:
    many = requests(live)
    prompts = [f"What is {number} + 3" for number in range(16)]
    asked = {"model": "lepo", "prompt": prompts, "n": 2, "max_tokens": 3, "user": "prompts"}
    assert live.http().post("/v1/completions", json=asked).status_code == 200
    found = rows(live, user_tag="prompts")
    assert requests(live) == many + 1
    assert sorted(row.prompt_text for row in found) == sorted(prompts * 2)
    assert {row.completion_id.rpartition(".")[2]: row.prompt_index for row in found} == {str(n): n for n in range(16)}
    assert found[0].request["prompt"] == prompts


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_not_to_be_stored_leaves_no_word(live: Live, stream: bool) -> None:
    secret, before, count = "47 + 11 - 5 * 3", requests(live), len(rows(live))
    ask = {**ASK, "messages": [{"role": "user", "content": secret}], "store": False, "n": 3, "stream": stream}
    unstored = counter(live, "lepo:choices_unstored_total")
    response = live.http().post("/v1/chat/completions", json=ask)
    assert response.status_code == 200, response.text
    if stream:
        events = [json.loads(event) for event in sse(response)[:-1]]
        last = [event["choices"][0] for event in events if event["choices"][0]["finish_reason"]]
        name = events[0]["id"]
    else:
        last, name = response.json()["choices"], response.json()["id"]
    assert [one["interaction_id"] for one in last] == [None] * 3
    assert (requests(live), len(rows(live))) == (before, count)
    assert secret not in everything(live)
    assert live.http().get(f"/v1/interactions/{name}?choice=0").status_code == 404
    assert live.http().post(f"/v1/interactions/{name}/grades?choice=0", json={"value": 1}).status_code == 404
    assert counter(live, "lepo:choices_unstored_total") == unstored + 3


def test_stored_is_the_default_and_may_be_said(live: Live) -> None:
    for said in ({}, {"store": True}, {"store": None}):
        assert live.answer(**said)["choices"][0]["interaction_id"].startswith("int_")


def test_a_grader_has_nothing_to_grade_in_an_answer_that_is_not_stored(live: Live) -> None:
    grader = {"type": "string_check", "operation": "eq", "reference": "5"}
    response = live.chat(store=False, grader=grader)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "grader")


def test_the_stock_client_reads_an_answer_without_an_id(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="lepo", messages=[{"role": "user", "content": "2"}], max_tokens=3, store=False
    )
    assert answer.choices[0].model_extra is not None
    assert answer.choices[0].model_extra["interaction_id"] is None


def counter(live: Live, name: str) -> float:
    lines = live.http(None).get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_a_reader_of_one_byte_a_second_delays_no_commit(live: Live) -> None:
    """Answers are stored while the reader has a handful of bytes."""
    content = json.dumps(
        {**ASK, "max_tokens": 150, "ignore_eos": True, "stream": True, "n": 8, "user": "byte"}
    ).encode()
    address = live.http().base_url
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: lepo\r\nAuthorization: Bearer {live.keys['both']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    read = bytearray()
    over = threading.Event()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect((address.host, address.port or 80))
        connection.sendall(head.encode() + content)

        def sip() -> None:
            while not over.wait(1.0):
                read.extend(connection.recv(1))

        reader = threading.Thread(target=sip)
        reader.start()
        wait_for(lambda: len(rows(live, user_tag="byte")) == 8, 60)
        took = len(read)
        over.set()
        reader.join()
    assert {row.finish_reason for row in rows(live, user_tag="byte")} == {"length"}
    assert took < 60


def test_ready_builds_no_script_tree(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    assert live.http(None).get("/ready").status_code == 200

    def never(*_: object) -> None:
        raise AssertionError("Alembic's files were read")

    monkeypatch.setattr(ScriptDirectory, "from_config", never)
    assert live.http(None).get("/ready").status_code == 200


def test_a_time_without_a_zone_is_utc_whatever_the_databases_is(live: Live) -> None:
    [row] = rows(live, id=_id(live.answer()))
    with live.store.session() as session:
        name = session.scalars(text("SELECT current_database()")).one()
        session.execute(text(f"ALTER DATABASE {name} SET timezone TO 'Asia/Tokyo'"))
    live.store.engine.dispose()
    utc = row.created_at.astimezone(UTC).replace(tzinfo=None)
    found = live.http().get("/v1/interactions", params={"since": utc.isoformat(), "limit": 1}).json()["data"]
    assert [one["id"] for one in found] == [f"int_{row.id.hex}"]
    later = utc.replace(microsecond=0) + timedelta(seconds=2)
    assert live.http().get("/v1/interactions", params={"since": later.isoformat()}).json()["data"] == []


def _id(answer: dict[str, Any]) -> str:
    found: str = answer["choices"][0]["interaction_id"]
    return found.removeprefix("int_")


def test_traces_are_where_the_setting_says(database_url: str, model_dir: Path, tmp_path: Path) -> None:
    directory = tmp_path / "traces"
    with served(database_url, model_dir, tmp_path / "var", traces=directory.as_uri()) as live:
        [one] = rows(live, id=_id(live.answer()))
        with live.store.session() as session:
            stored = rollout(session, one.id)
            assert stored is not None
            assert (stored.inline, stored.address) == (None, next(directory.rglob("*.rollout")).as_uri())
            assert decode(stored.payload).answer_length == 4
        read = live.http("admin").get(f"/v1/interactions/int_{one.id.hex}?include=rollout").json()
        assert len(read["rollout"]["token_ids"]) == 4
        live.http("admin").delete(f"/v1/interactions/int_{one.id.hex}")
        assert list(directory.rglob("*.rollout")) == []
