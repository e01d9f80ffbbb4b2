"""Millions of answers in minutes: rows as half a year of service leaves them, written inside Postgres.

What makes listings hard is there on purpose: one key asked half of everything and the last few nearly nothing, one user
is in a tenth of all answers, a fifth is graded, a tenth learned from, and each version answered for a short while long
ago. Two answers a request. Rollouts are left out: nothing listed reads them. Indexes of answers are built afterwards.
"""
# ruff: noqa: S608 - the statements are put together from the constants of this file

import time
from collections.abc import Callable
from typing import Final

from sqlalchemy import text

from app.store.budgets import MIGRATION
from app.store.connect import Store

VERSIONS: Final = 1000
CHUNK: Final = 250_000
AT: Final = "(now() - (:rows - n) * (interval '180 days' / :rows))"
VERSION: Final = f"(n * {VERSIONS} / :rows)"
ID: Final = f"""(lpad(to_hex(floor(extract(epoch FROM {AT}) * 1000)::bigint), 12, '0')
    || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid"""
JOB: Final = "('00000000-0000-7000-8000-' || lpad(to_hex({n}), 12, '0'))::uuid"
POLICY: Final = "('00000000-0000-7000-9000-' || lpad(to_hex({n}), 12, '0'))::uuid"
REQUEST: Final = "('00000000-0000-7000-a000-' || lpad(to_hex(n / 2), 12, '0'))::uuid"

HISTORY: Final = (
    """
    INSERT INTO api_keys (id, name, secret_sha256, scopes)
    SELECT 'key' || n, 'key' || n, '', ARRAY['infer', 'grade'] FROM generate_series(0, 7) AS n
    """,
    f"""
    INSERT INTO jobs (id, status, trigger, requested_by, config, metrics, verdict, started_at, finished_at)
    SELECT {JOB.format(n="n")}, 'succeeded', 'schedule', 'beat', '{{}}', '{{}}', 'promoted', now(), now()
    FROM generate_series(1, {VERSIONS - 1}) AS n
    """,
    f"""
    INSERT INTO checkpoints (id, version, parent_id, path, digest, job_id, state, metrics)
    SELECT {POLICY.format(n="n")}, n, CASE WHEN n > 0 THEN {POLICY.format(n="n - 1")} END, '/c', 'd',
        CASE WHEN n > 0 THEN {JOB.format(n="n")} END,
        CASE WHEN n = {VERSIONS - 1} THEN 'serving' ELSE 'retired' END, '{{}}'
    FROM generate_series(0, {VERSIONS - 1}) AS n
    """,
    f"""
    INSERT INTO transitions (id, checkpoint_id, from_state, to_state, event, replaced_id, actor, reason, figures)
    SELECT gen_random_uuid(), {POLICY.format(n="n")}, 'candidate', 'serving', 'promote',
        CASE WHEN n > 0 THEN {POLICY.format(n="n - 1")} END, 'gate', 'as good', '{{}}'
    FROM generate_series(0, {VERSIONS - 1}) AS n
    """,
    """
    INSERT INTO evaluations (id, checkpoint_id, kind, correct, total, accuracy)
    SELECT gen_random_uuid(), id, 'gate', 60, 80, 0.75 FROM checkpoints, generate_series(1, 3)
    """,
)
REQUESTS: Final = f"""
    INSERT INTO requests (id, body, prompts, created_at)
    SELECT {REQUEST},
        jsonb_build_object('model', 'lepo', 'n', 2, 'messages', jsonb_build_array(
            jsonb_build_object('role', 'user', 'content', repeat(md5(n::text) || ' ', 8)))),
        ARRAY[repeat(md5(n::text) || ' ', 8)], {AT}
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint), 2) AS n
"""
ANSWERS: Final = f"""
    INSERT INTO interactions (
        id, completion_id, choice, group_size, endpoint, model, checkpoint_id, policy_version, api_key_id, request_id,
        prompt_tokens, answer, finish_reason, usage, grading_state, user_tag, learnable, graded_at, reward,
        charged_key_id, claimed, created_at
    )
    SELECT {ID}, 'chatcmpl-' || lpad(to_hex(n / 2), 32, '0'), n % 2, 2, 'chat', 'lepo',
        {POLICY.format(n=VERSION)}, {VERSION},
        'key' || least(7, floor(-ln(1 - (hashtext((n / 2)::text)::bigint & 1023) / 1024.0))::int),
        {REQUEST}, 80, repeat(md5((n + 1)::text) || ' ', 8), 'stop',
        '{{"prompt_tokens": 80, "completion_tokens": 60, "reasoning_tokens": 4}}',
        CASE WHEN n % 100 = 0 THEN 'failed' WHEN n % 10 = 1 THEN 'graded' WHEN n % 1000 = 2 THEN 'pending'
            ELSE 'none' END,
        CASE WHEN n % 10 < 2 THEN NULL WHEN n % 10 = 2 THEN 'anonymous'
            ELSE 'user' || (hashtext(n::text)::bigint & 65535) END,
        true, CASE WHEN n % 5 = 1 THEN {AT} END, CASE WHEN n % 5 = 1 THEN n % 2 END,
        CASE WHEN n % 5 = 1 THEN 'key1' ELSE '' END, n % 10 = 1, {AT}
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
"""
GRADES: Final = """
    INSERT INTO grades (id, interaction_id, state, value, grader_kind, grader_id, api_key_id, created_at)
    SELECT gen_random_uuid(), id, 'graded', reward, CASE WHEN grading_state = 'graded' THEN 'math' ELSE 'client' END,
        'g', 'key1', graded_at
    FROM interactions WHERE graded_at IS NOT NULL
"""
CLAIMS: Final = f"""
    INSERT INTO claims (interaction_id, job_id, outcome, reason)
    SELECT id, {JOB.format(n="greatest(1, policy_version)")}, CASE WHEN skipped THEN 'skipped' ELSE 'learned' END,
        CASE WHEN skipped THEN 'diverged' END
    FROM (SELECT *, substr(md5(id::text), 1, 1) = '0' AS skipped FROM interactions WHERE claimed) AS taken
"""

TALLIES: Final = """
    INSERT INTO tallies (what, name, backend, count)
    SELECT 'answers', '', 0, count(*) FROM interactions
    UNION ALL SELECT 'grading', grading_state, 0, count(*) FROM interactions WHERE grading_state <> 'none' GROUP BY 2
    UNION ALL SELECT 'grades', grader_kind, 0, count(*) FROM grades GROUP BY 2
    UNION ALL SELECT 'learned', job_id::text, 0, count(*) FROM claims WHERE outcome = 'learned' GROUP BY 2
    UNION ALL SELECT 'skipped', reason, 0, count(*) FROM claims WHERE outcome = 'skipped' GROUP BY 2
"""


def fill(store: Store, rows: int, tell: Callable[[str], None]) -> float:
    """Fill an empty, migrated database; returns the seconds it took."""
    began = time.perf_counter()
    for statement in HISTORY:
        run(store, statement)
    indexes = drop_indexes(store)
    for first in range(0, rows, CHUNK):
        place = {"rows": rows, "first": first, "last": min(rows, first + CHUNK) - 1}
        run(store, REQUESTS, **place)
        run(store, ANSWERS, **place)
        tell(f"{place['last'] + 1:,} answers after {time.perf_counter() - began:.0f} s")
    for definition in indexes:
        run(store, f"SET LOCAL maintenance_work_mem = '256MB'; {definition}")
    for statement in (GRADES, CLAIMS, TALLIES):
        run(store, statement)
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return time.perf_counter() - began


def drop_indexes(store: Store) -> list[str]:
    """Drop the indexes of answers that enforce nothing; returns what makes them anew."""
    query = text(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'interactions' AND indexname LIKE 'ix_%'"
    )
    with store.session(MIGRATION) as session:
        found = {name: definition for name, definition in session.execute(query)}  # noqa: C416 - rows are no pairs to mypy
        for name in found:
            session.execute(text(f"DROP INDEX {name}"))
    return list(found.values())


def run(store: Store, statement: str, **values: int) -> None:
    """Run one statement, however long it takes, without looking up what the rows refer to or counting them."""
    with store.session(MIGRATION) as session:
        session.execute(text("SET LOCAL session_replication_role = replica"))
        session.execute(text(statement), values)
