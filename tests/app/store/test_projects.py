"""Projects in the store: what is counted without anybody's help, whose limits count, lent tokens, the audit."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from threading import Barrier, Thread
from uuid import UUID

import pytest
from sqlalchemy import text

from app.errors import BadRequest, Conflict, Forbidden, NotFound
from app.settings import Settings
from app.store import audit, grades, lent, projects
from app.store.connect import Store
from app.store.grades import Entry
from app.store.interactions import record
from app.store.keys import create_key, fix_admin_key, has_admin, list_keys
from app.store.migrate import downgrade, upgrade
from app.store.removal import remove
from app.store.retention import sweep
from app.store.tables import ApiKey, Checkpoint, Interaction
from app.store.tenants import DEFAULT
from app.store.traces import TraceFiles
from tests.conftest import answer

Answers = Callable[..., list[UUID]]


def key(store: Store, project: str, *scopes: str) -> str:
    with store.session() as session:
        if project not in {one.id for one in projects.list_projects(session)}:
            projects.create_project(session, project)
        return create_key(session, "k", scopes or ["infer"], project=project)[0].id


def kept(store: Store, project: str) -> int:
    with store.session() as session:
        return projects.used(session, project).stored_bytes


def test_an_answer_belongs_to_the_project_of_its_key_whoever_writes_it(store: Store, answers: Answers) -> None:
    [mine] = answers(api_key_id=key(store, "team-a"), project_id="lie")
    [nobodys] = answers()
    with store.session() as session:
        assert session.get_one(Interaction, mine).project_id == "team-a"
        assert session.get_one(Interaction, nobodys).project_id == DEFAULT


def test_bytes_are_counted_as_they_come_and_go(store: Store, answers: Answers) -> None:
    asker = key(store, "team-a")
    ids = answers(3, api_key_id=asker)
    with store.session() as session:
        of_answers = session.scalar(text("SELECT sum(octet_length(answer) + 2) FROM interactions"))
        of_requests = session.scalar(
            text("SELECT sum(octet_length(body::text) + octet_length(prompts::text)) FROM requests")
        )
        assert kept(store, "team-a") == of_answers + of_requests
        grades.add_grade(session, ids[0], Entry("client", "a", value=1.0, comment="äöü", api_key_id=asker))
    with_comment = kept(store, "team-a")
    assert with_comment == kept(store, "team-a")
    with store.session() as session:
        remove(session, ids[1:])
    assert kept(store, "team-a") == of_answers // 3 + of_requests + 6, "what was asked goes with the last answer"
    with store.session() as session:
        remove(session, ids[:1])
    assert kept(store, "team-a") == kept(store, DEFAULT) == 0


def test_traces_in_files_count_like_those_in_rows(
    store: Store, database_url: str, base_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    asker = key(store, "team-a")
    ids = []
    used = []
    for place, files in enumerate((None, TraceFiles(tmp_path))):
        before = kept(store, "team-a")
        with store.session() as session:
            row = Interaction(**answer(base_checkpoint, f"c{place}", 0, 1) | {"api_key_id": asker})
            row.asked.project_id = "team-a"
            record(session, row, codec=1, payload=b"x" * 12_345, files=files)
            ids.append(row.id)
        used.append(kept(store, "team-a") - before)
    assert used[0] == used[1] > 12_345
    store.engine.dispose()
    downgrade(database_url, "0011")
    upgrade(database_url)
    assert kept(store, "team-a") == sum(used) - 12_345, "there a file is not counted, and so it is not when it goes"
    with store.session() as session:
        remove(session, ids)
    assert kept(store, "team-a") == 0


def test_answers_that_end_together_do_not_queue_for_one_count(store: Store, answers: Answers) -> None:
    asker = key(store, "busy")
    together = Barrier(4)

    def many() -> None:
        together.wait()
        for _ in range(5):
            answers(api_key_id=asker)

    threads = [Thread(target=many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.session() as session:
        rows = session.scalars(text("SELECT stored_bytes FROM project_usage WHERE project_id = 'busy'")).all()
    answers(api_key_id=asker)
    assert len(rows) > 1
    assert sum(rows) * 21 == kept(store, "busy") * 20


def test_graders_time_is_of_a_day(store: Store) -> None:
    settings = Settings(project_grading_seconds=2.0)
    with store.session() as session:
        assert projects.spent_until(session, DEFAULT, settings) is None
        projects.spend_grading(session, DEFAULT, 1.5)
        projects.spend_grading(session, DEFAULT, 1.0)
        assert projects.used(session, DEFAULT).grading_seconds == 2.5
        wait = projects.spent_until(session, DEFAULT, settings)
        assert wait is not None
        assert timedelta(0) < wait <= timedelta(days=1)
        projects.set_limits(session, DEFAULT, {"grading_seconds": 3.0})
        assert projects.spent_until(session, DEFAULT, settings) is None
        session.execute(text("UPDATE project_usage SET grading_day = grading_day - 1"))
        assert projects.used(session, DEFAULT).grading_seconds == 0
        projects.spend_grading(session, DEFAULT, 0.25)
        assert projects.used(session, DEFAULT).grading_seconds == 0.25


def test_a_limit_is_the_keys_or_the_projects_or_the_settings(store: Store) -> None:
    settings = Settings(
        requests_per_minute=1,
        tokens_per_minute=2,
        project_requests_per_minute=3,
        project_tokens_per_minute=4,
        project_stored_bytes=5,
        project_grading_seconds=6.0,
    )
    asker = key(store, "team-a")
    with store.session() as session:
        row = session.get_one(ApiKey, asker)
        general = projects.Bounds(1, 2, 3, 4, 0, 5, 6.0)
        assert projects.bounds(session, row, settings) == general
        row.requests_per_minute, row.tokens_per_minute, row.max_choices = 0, 20, 7
        limits = {"requests_per_minute": 30, "tokens_per_minute": 0, "stored_bytes": 50, "grading_seconds": 0.0}
        projects.set_limits(session, "team-a", limits)
        assert projects.bounds(session, row, settings) == projects.Bounds(0, 20, 30, 0, 7, 50, 0.0)


def test_names_of_projects(store: Store) -> None:
    with store.session() as session:
        projects.create_project(session, "team-a")
        with pytest.raises(Conflict):
            projects.create_project(session, "team-a")
        for name in ("", "Team", "1a", "a b", "a" * 41, "a/b"):
            with pytest.raises(BadRequest):
                projects.create_project(session, name)
        with pytest.raises(NotFound):
            create_key(session, "k", ["infer"], project="nowhere")


def test_an_admin_of_a_project_is_none_of_the_service(store: Store) -> None:
    with store.session() as session:
        projects.create_project(session, "team-a")
        row, text_ = create_key(session, "lead", ["admin"], project="team-a")
        assert not has_admin(session)
        with pytest.raises(ValueError, match="administers the project team-a alone"):
            fix_admin_key(session, text_)
        assert create_key(session, "root", ["admin"])[0].project_id is None
        assert has_admin(session)
        assert [one.id for one in list_keys(session, "team-a")] == [row.id]


def test_a_lent_token_is_used_as_often_as_it_may_be(store: Store, answers: Answers) -> None:
    maker = key(store, "team-a", "grade")
    [answer] = answers()
    with store.session() as session:
        row = lent.lend(session, answer, maker, 2, timedelta(minutes=5))
        other = lent.lend(session, answer, maker, 1, timedelta(minutes=-5))
        for _ in range(2):
            lent.use(session, row.id)
        with pytest.raises(Forbidden):
            lent.use(session, row.id)
        assert lent.take_back(session, answer, key_id="somebody", token_id=None) == 0
        assert lent.take_back(session, answer, key_id=maker, token_id=other.id) == 1
        assert (lent.is_open(session, row.id), lent.is_open(session, other.id)) == (True, False)
        with pytest.raises(Forbidden):
            lent.use(session, other.id)


def test_what_operators_did_and_expired_tokens_go_in_time(store: Store, answers: Answers) -> None:
    [answer] = answers()
    with store.session() as session:
        begun = audit.begin(session, "k", None, "POST /v1/admin/keys", "req_1")
        audit.end(session, begun, "201", "new")
        audit.done(session, "login:ada", "keys revoke", "old")
        lent.lend(session, answer, key(store, "team-a"), 1, timedelta(days=-3))
        assert [one.target for one in audit.list_audit(session)] == ["old", "new"]
        assert [one.target for one in audit.list_audit(session, limit=1, after=audit.list_audit(session)[0].id)] == [
            "new"
        ]
    assert sweep(store, Settings(keep_audit_days=1.0)).get("audit", 0) == 0
    with store.session() as session:
        session.execute(text("UPDATE audit SET created_at = created_at - interval '2 days'"))
    swept = sweep(store, Settings(keep_audit_days=1.0))
    assert swept["audit"] == 2
    with store.session() as session:
        assert session.scalar(text("SELECT count(*) FROM grading_tokens")) == 0


def test_a_database_of_the_release_before_comes_here_and_goes_back(
    store: Store, database_url: str, answers: Answers
) -> None:
    """What is there belongs to the default project, and admins to the service; back there, no one gains rights."""
    with store.session() as session:
        create_key(session, "root", ["admin"])
        plain, _ = create_key(session, "plain", ["infer"])
        projects.create_project(session, "team-a")
        create_key(session, "lead", ["admin"], project="team-a")
    answers(2, api_key_id=plain.id)
    store.engine.dispose()
    downgrade(database_url, "0007")
    upgrade(database_url)
    with store.session() as session:
        found = {row.name: row for row in list_keys(session)}
        assert {name: row.project_id for name, row in found.items()} == {"root": None, "plain": DEFAULT, "lead": None}
        assert found["lead"].revoked_at is not None, "it would rule everything"
        assert found["root"].revoked_at is None
        assert projects.used(session, DEFAULT).stored_bytes > 0, "an estimate of what was there"
