"""Faults that come with the requests: backlogs, a grader that hangs, poison, a slow reader, a key that never returns.

Each is a context manager, as in `benchmarks.chaos.learner`.
"""
# ruff: noqa: S608 - the statements are put together from the constants of this file

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

from app.errors import LepoError
from benchmarks.chaos.crowd import visit
from benchmarks.chaos.world import World, newcomer

HANGS: Final = {"type": "math", "reference": "(9^9)^{(9^9)^{(9^9)}}"}
POISON_S: Final = 4.0
SLOW_READERS: Final = 4
SLOW_S: Final = 4.0
OURS: Final = "chaos-"  # begins the completion ids of a backlog

COLUMNS: Final = (
    "choice, group_size, endpoint, model, api_key_id, request_id, prompt_tokens, answer, finish_reason, usage, "
    "grader_source"
)
# Copies of the answer with the shortest rollout; one statement writes them all, in one transaction.
STALE: Final = f"""
WITH pattern AS (
    SELECT i.*, r.codec, r.payload FROM interactions i JOIN rollouts r ON r.interaction_id = i.id
    WHERE i.group_size = 1 AND i.learnable AND i.graded_at IS NOT NULL ORDER BY length(r.payload) LIMIT 1
), made AS (
    SELECT gen_random_uuid() AS new_id, (n % 2)::float8 AS worth, n, pattern.*
    FROM pattern CROSS JOIN generate_series(1, :many) AS n
), answers AS (
    INSERT INTO interactions (id, completion_id, {COLUMNS}, checkpoint_id, policy_version, grading_state, learnable,
        graded_at, reward, charged_key_id)
    SELECT new_id, '{OURS}' || new_id, {COLUMNS}, (SELECT id FROM checkpoints WHERE version = 0), 0, 'none', true,
        now(), worth, api_key_id FROM made
), traces AS (
    INSERT INTO rollouts (interaction_id, codec, payload) SELECT new_id, codec, payload FROM made
)
INSERT INTO grades (id, interaction_id, state, value, grader_kind, grader_id, api_key_id)
SELECT gen_random_uuid(), new_id, 'graded', worth, 'client', api_key_id, api_key_id FROM made
"""
PENDING: Final = f"""
WITH pattern AS (
    SELECT * FROM interactions WHERE group_size = 1 LIMIT 1
), asked AS (
    INSERT INTO requests (id, body, prompts, grader)
    SELECT gen_random_uuid(), body, prompts,
        '{{"type": "string_check", "reference": "4", "operation": "eq"}}'::jsonb
    FROM requests WHERE id = (SELECT request_id FROM pattern)
    RETURNING id AS new_id
)
INSERT INTO interactions (id, completion_id, {COLUMNS}, checkpoint_id, policy_version, grading_state, learnable,
    unlearnable_reason)
SELECT gen_random_uuid(), '{OURS}' || gen_random_uuid(), {COLUMNS.replace("request_id", "new_id")}, checkpoint_id,
    policy_version, 'pending', false, 'chaos'
FROM pattern CROSS JOIN asked CROSS JOIN generate_series(1, :many)
"""
# By hand and without foreign keys: each grade deleted would look through all grades for one that supersedes it.
TIDY: Final = f"""
WITH doomed AS (
    DELETE FROM interactions WHERE completion_id LIKE '{OURS}%' AND NOT claimed
    AND (grading_state <> 'pending' OR grading_until IS NULL) RETURNING id
), graded AS (DELETE FROM grades USING doomed WHERE interaction_id = doomed.id)
DELETE FROM rollouts USING doomed WHERE interaction_id = doomed.id AND :many > 0
"""


@contextmanager
def stale_backlog(here: World) -> Iterator[None]:
    """Write graded answers of the first policy, as after a week away."""
    write(here, STALE)
    yield
    tidy(here)


@contextmanager
def pending_backlog(here: World) -> Iterator[None]:
    """Write answers whose grader has not run."""
    write(here, PENDING)
    yield
    tidy(here)


def write(here: World, sql: str) -> None:
    """Write a backlog; it may take as long as it takes."""
    from sqlalchemy import text

    from app.store.budgets import MIGRATION

    with here.store.session(MIGRATION) as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text(sql), {"many": here.scale.backlog})


def tidy(here: World) -> None:
    """Take away what is left of a backlog, so that the next fault meets an ordinary service."""
    for _ in range(10):
        with suppress(LepoError):
            write(here, TIDY)
            return
        time.sleep(1.0)


@contextmanager
def grader_hangs(here: World) -> Iterator[None]:
    """Ask with a grader that never comes to an end; its failure is recorded, and nothing waits for it."""
    guest = newcomer(here, "hanging")
    with guest.client() as http:
        here.until(lambda: guest.ask(http, guest.problems[0], 4, grader=HANGS), "an answer to grade")
    yield
    pending = (
        "SELECT count(*) FROM interactions JOIN requests ON requests.id = request_id "
        "WHERE grader ->> 'reference' = :reference AND grading_state = 'pending'"
    )
    try:
        here.until(lambda: not here.one(pending, reference=HANGS["reference"]), "the hanging grader is given up", 60.0)
    except RuntimeError as error:
        here.wrong("stuck_jobs", str(error))


@contextmanager
def poisoned_key(here: World) -> Iterator[None]:
    """Let one key flood the service with wrong grades."""
    visit(newcomer(here, "poison", hostile=True), POISON_S)
    yield


@contextmanager
def second_key(here: World) -> Iterator[None]:
    """Let a new key ask once, for four answers, grade them, and never come back."""
    guest = newcomer(here, "passer-by")
    with guest.client() as http:
        here.until(lambda: guest.turn(http, threading.Event(), n=4), "four answers, graded")
    yield


@contextmanager
def slow_reader(here: World) -> Iterator[None]:
    """Ask for streams and do not read them."""
    guest = newcomer(here, "slow")
    where = urlsplit(here.stack.base_url)
    body = (
        b'{"model": "lepo", "stream": true, "n": 4, "messages": [{"role": "user", "content": "'
        + guest.problems[0].prompt.encode()
        + b'"}]}'
    )
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {where.hostname}\r\nAuthorization: Bearer {guest.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with ExitStack() as open_ones:
        for _ in range(SLOW_READERS):
            one = open_ones.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            one.connect((str(where.hostname), int(where.port or 80)))
            one.sendall(head.encode() + body)
        time.sleep(SLOW_S)
    yield
