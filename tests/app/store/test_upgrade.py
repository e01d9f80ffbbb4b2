"""A database of the first release, with rows in it, brought to this one and back: every value is where it belongs.

The rows are written as that release wrote them: a policy that serves and was promoted twice, one that was rolled back,
refused ones, some that were never promoted though their answers were called learned, deleted files, jobs under way.
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from psycopg import sql
from sqlalchemy import text

from app.store import interactions, jobs, learnable, lineage, policy_life
from app.store.connect import Store, open_store
from app.store.migrate import downgrade, upgrade
from tests.app.store.acts import books_agree, settings
from tests.conftest import drop, on_database, run_on

POLICIES = {  # version -> (version of the parent, status, whether its files were deleted)
    0: (None, "published", False),
    1: (0, "published", True),
    2: (1, "published", False),
    3: (2, "rejected", True),
    4: (2, "published", False),
    5: (4, "published", False),
    6: (2, "published", False),
    7: (2, "published", True),
    8: (2, "published", False),
    9: (2, "published", False),
}
PROMOTIONS = [(None, 0), (0, 1), (1, 2), (2, 4), (4, 5), (5, 4), (4, 2)]  # the last two are rollbacks
JOBS = {3: ("succeeded", "rejected"), 4: ("succeeded", "promoted"), 7: ("succeeded", "held")}
STATES = {
    0: "retired",
    1: "retired",
    2: "serving",
    3: "refused",
    4: "rolled_back",
    5: "rolled_back",
    6: "refused",  # passed over: 9 is the newest that waits
    7: "refused",  # its files are gone
    8: "refused",
    9: "held",
}


@pytest.fixture
def first_release_url(postgres_url: str) -> Iterator[str]:
    """Address of an empty database of the first release."""
    name = f"lepo_first_{uuid4().hex[:12]}"
    run_on(postgres_url, sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    url = on_database(postgres_url, name)
    assert upgrade(url, "0001") == "0001"
    yield url
    drop(postgres_url, name)


@pytest.fixture
def store(first_release_url: str) -> Iterator[Store]:
    opened = open_store(first_release_url, pool=2)
    yield opened
    opened.close()


class FirstRelease:
    """Writes rows of the first release, and remembers their ids."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.policies = {version: uuid4() for version in POLICIES}
        self.jobs: dict[str, UUID] = {}
        self.answers: dict[str, UUID] = {}

    def run(self, statement: str, **values: Any) -> None:
        with self.store.session() as session:
            session.execute(text(statement), values)

    def write(self) -> None:
        for name in ("a", "b"):
            self.run("INSERT INTO api_keys (id, name, secret_sha256, scopes) VALUES (:k, :k, '', '{grade}')", k=name)
        for version, (parent, status, deleted) in POLICIES.items():
            job = None if version == 0 else self.job(f"made {version}", *JOBS.get(version, ("succeeded", "promoted")))
            self.run(
                "INSERT INTO checkpoints (id, version, parent_id, path, digest, job_id, status, metrics)"
                " VALUES (:id, :version, :parent, '/c', 'd', :job, :status, CAST(:metrics AS jsonb))",
                id=self.policies[version],
                version=version,
                parent=None if parent is None else self.policies[parent],
                job=job,
                status=status,
                metrics='{"drift": 0.5, "deleted": true}' if deleted else '{"drift": 0.5}',
            )
        self.promotions()
        self.job("queued", "queued", None)
        self.job("running", "running", None)
        self.job("beatless", "failed", "rejected")
        self.claims()

    def promotions(self) -> None:
        for number, (before, after) in enumerate(PROMOTIONS):
            self.run(
                "INSERT INTO promotions (id, alias, from_checkpoint_id, to_checkpoint_id, reason, actor, created_at)"
                " VALUES (:id, 'serving', :before, :after, 'because', 'who', now() - :ago * interval '1 second')",
                id=uuid4(),
                before=None if before is None else self.policies[before],
                after=self.policies[after],
                ago=60 - number,
            )
        for name, version in (("serving", 2), ("previous", 4)):
            self.run("INSERT INTO aliases (name, checkpoint_id) VALUES (:n, :id)", n=name, id=self.policies[version])

    def job(self, name: str, status: str, verdict: str | None) -> UUID:
        self.jobs[name] = one = uuid4()
        over, began = status not in {"queued", "running"}, status != "queued"
        self.run(
            "INSERT INTO jobs (id, status, trigger, requested_by, config, metrics, verdict, started_at, finished_at,"
            " fence, worker) VALUES (:id, :status, 'schedule', 'beat', '{}', '{}', :verdict,"
            " CASE WHEN :began THEN now() END, CASE WHEN :over THEN now() END, 1, 'w')",
            id=one,
            status=status,
            verdict=verdict,
            began=began,
            over=over,
        )
        return one

    def claims(self) -> None:
        self.answer("asked by a", asker="a", grades=[("a", 1.0)])
        self.answer("graded by b", asker="a", grades=[("a", 1.0), ("b", 0.0)])
        self.answer("graded here", asker="a", grades=[(None, 0.5)])
        self.answer("asked by nobody", grades=[(None, 0.0)])
        self.answer("ungraded")
        self.answer("taken back", grades=[("a", None)])
        self.answer("unlearnable", grades=[("a", 1.0)], learnable=False)
        self.answer("running", grades=[("b", 1.0)], job="running", outcome="claimed")
        self.answer("learned", grades=[("a", 1.0)], job="made 2", outcome="learned")
        self.answer("learned and rolled back", grades=[("a", 1.0)], job="made 4", outcome="learned")
        self.answer("rejected", grades=[("a", 1.0)], job="made 3", outcome="skipped", reason="rejected")
        self.answer("stale", grades=[("a", 1.0)], job="made 4", outcome="skipped", reason="stale")
        self.answer("passed over", grades=[("b", 1.0)], job="made 6", outcome="learned")
        self.answer("deleted", grades=[("b", 0.0)], job="made 7", outcome="learned")
        self.answer("held", grades=[("b", 1.0)], job="made 9", outcome="learned")

    def answer(
        self,
        name: str,
        *,
        asker: str | None = None,
        grades: list[tuple[str | None, float | None]] | None = None,
        learnable: bool = True,
        job: str | None = None,
        outcome: str | None = None,
        reason: str | None = None,
    ) -> None:
        self.answers[name] = one = uuid4()
        graded = any(value is not None for _, value in grades or [])
        self.run(
            "INSERT INTO interactions (id, completion_id, choice, group_size, endpoint, model, checkpoint_id,"
            " policy_version, api_key_id, request, prompt_text, prompt_tokens, answer, finish_reason, usage, learnable,"
            " unlearnable_reason, graded_at, claimed) VALUES (:id, :name, 0, 1, 'chat', 'lepo', :policy, 2, :asker,"
            " '{}', '', 1, '', 'stop', '{}', :learnable, CASE WHEN NOT :learnable THEN 'cancelled' END,"
            " CASE WHEN :graded THEN now() END, :claimed)",
            id=one,
            name=name,
            policy=self.policies[2],
            asker=asker,
            learnable=learnable,
            graded=graded,
            claimed=job is not None,
        )
        for number, (key, value) in enumerate(grades or []):
            self.run(
                "INSERT INTO grades (id, interaction_id, state, value, grader_kind, grader_id, api_key_id, created_at)"
                " VALUES (gen_random_uuid(), :one, :state, :value, 'client', :grader, :key,"
                " (SELECT coalesce(graded_at, now()) FROM interactions WHERE id = :one) + :later * interval '1s')",
                one=one,
                state="retracted" if value is None else "graded",
                value=value,
                grader=key or "server",
                key=key,
                later=number,
            )
        if job is not None:
            self.run(
                "INSERT INTO claims (interaction_id, job_id, outcome, reason) VALUES (:one, :job, :outcome, :reason)",
                one=one,
                job=self.jobs[job],
                outcome=outcome,
                reason=reason,
            )


@pytest.fixture
def first(store: Store, first_release_url: str) -> FirstRelease:
    """What the first release had written, after the upgrade."""
    written = FirstRelease(store)
    written.write()
    upgrade(first_release_url)
    return written


def rows(store: Store, statement: str) -> list[tuple[Any, ...]]:
    with store.session() as session:
        return [tuple(row) for row in session.execute(text(statement))]


def fates(first: FirstRelease) -> dict[str, str | None]:
    """Answer -> what its claim says; None: it has none."""
    names = {one: name for name, one in first.answers.items()}
    found = rows(
        first.store,
        "SELECT id, outcome || coalesce(':' || reason, '') FROM interactions LEFT JOIN claims ON interaction_id = id",
    )
    return {names[one]: fate for one, fate in found}


def test_policies_have_their_states_and_one_waits(first: FirstRelease) -> None:
    assert dict(rows(first.store, "SELECT version, state FROM checkpoints")) == STATES
    gone = rows(first.store, "SELECT version FROM checkpoints WHERE files_deleted_at IS NOT NULL ORDER BY version")
    assert gone == [(1,), (3,), (7,)]
    assert rows(first.store, "SELECT DISTINCT metrics FROM checkpoints") == [({"drift": 0.5},)]
    with first.store.session() as session:
        assert [row.version for row in policy_life.undecided(session)] == [9]


def test_promotions_are_transitions_and_rollbacks_no_promotions(first: FirstRelease) -> None:
    numbers = {one: version for version, one in first.policies.items()}
    with first.store.session() as session:
        past = policy_life.history(session, limit=100)[::-1]
    moves = [(numbers.get(one.replaced_id), numbers[one.checkpoint_id]) for one in past if one.to_state == "serving"]  # type: ignore[arg-type]
    assert moves == PROMOTIONS, "in their order"
    assert [one.event for one in past if one.to_state == "serving"] == ["promote"] * 5 + ["restore"] * 2
    assert {(one.actor, one.reason) for one in past if one.to_state == "serving"} == {("who", "because")}
    turned_down = {numbers[one.checkpoint_id] for one in past if one.event == "discard"}
    assert turned_down == {6, 7, 8}


def test_the_default_rollback_goes_where_the_serving_policys_promotion_came_from(first: FirstRelease) -> None:
    """That is 1, whose files are gone, so 0; the alias `previous` of the first release named 4, the bad one."""
    with first.store.session() as session:
        entry = policy_life.rollback(session, "ops")
        assert entry is not None
        assert entry.checkpoint_id == first.policies[0]


def test_answers_are_where_they_belong(first: FirstRelease) -> None:
    assert fates(first) == {
        "asked by a": None,
        "graded by b": None,
        "graded here": None,
        "asked by nobody": None,
        "ungraded": None,
        "taken back": None,
        "unlearnable": None,
        "running": "claimed",
        "learned": "learned",
        "learned and rolled back": "learned",
        "rejected": "skipped:refused",
        "stale": "skipped:stale",
        "passed over": None,
        "deleted": None,
        "held": "claimed",
    }
    assert books_agree(first.store)


def test_every_graded_answer_knows_its_reward_and_whom_it_counts_for(first: FirstRelease) -> None:
    names = {one: name for name, one in first.answers.items()}
    found = rows(first.store, "SELECT id, reward, charged_key_id, refusals FROM interactions")
    known = {names[one]: (reward, key, refusals) for one, reward, key, refusals in found}
    assert known["asked by a"] == (1.0, "a", 0)
    assert known["graded by b"] == (0.5, "b", 0)
    assert known["graded here"] == (0.5, "a", 0)
    assert known["asked by nobody"] == (0.0, "", 0)
    assert known["ungraded"] == known["taken back"] == (None, "", 0)
    assert known["running"] == known["held"] == (1.0, "b", 0), "they may wait again"


def test_jobs_go_on(first: FirstRelease) -> None:
    names = {one: name for name, one in first.jobs.items()}
    found = rows(first.store, "SELECT id, status, verdict, fault, lease_until IS NOT NULL FROM jobs")
    known = {names[one]: tuple(facts) for one, *facts in found}
    assert known["made 3"] == ("succeeded", "refused", "policy", False)
    assert known["beatless"] == ("failed", "refused", "policy", False)
    assert known["made 4"] == ("succeeded", "promoted", None, False)
    assert known["queued"] == ("queued", None, None, False)
    assert known["running"] == ("running", None, None, True)
    with first.store.session() as session:
        assert [job.id for job in jobs.end_expired(session)] == [first.jobs["running"]]
    assert fates(first)["running"] is None, "given back"
    with first.store.session() as session:
        began = jobs.start(session, "w", timedelta(seconds=20))
        assert began is not None
        assert began.id == first.jobs["queued"]


def test_learning_waits_for_the_decision_and_then_goes_on(first: FirstRelease) -> None:
    def words() -> str | None:
        with first.store.session() as session:
            return learnable.outlook(session, settings()).words

    assert words() == "version 9 is held and waits for a decision: promote or discard it"
    with first.store.session() as session:
        policy_life.promote(session, first.policies[9], "wanted", "ops", expected=first.policies[2])
        assert lineage.contents(session, first.policies[9]).answers == 2
        found = interactions.fate(session, first.answers["held"])
        assert found is not None
        assert found[0].outcome == "learned"
    assert words() is None


def test_back_to_the_first_release_and_up_again(first: FirstRelease, first_release_url: str) -> None:
    with first.store.session() as session:
        policy_life.rollback(session, "ops", first.policies[0])
    downgrade(first_release_url, "0001")
    first.store.engine.dispose()
    assert dict(rows(first.store, "SELECT name, checkpoint_id FROM aliases")) == {
        "serving": first.policies[0],
        "previous": first.policies[2],
    }
    numbers = {one: version for version, one in first.policies.items()}
    promotions = rows(
        first.store, "SELECT from_checkpoint_id, to_checkpoint_id FROM promotions ORDER BY created_at, id"
    )
    assert sorted((-1 if a is None else numbers[a], numbers[b]) for a, b in promotions) == sorted(
        (-1 if a is None else a, b) for a, b in [*PROMOTIONS, (2, 0)]
    ), "a freeze is no promotion"
    statuses = dict(rows(first.store, "SELECT version, status FROM checkpoints"))
    assert {version for version, status in statuses.items() if status == "rejected"} == {3, 6, 7, 8, 9}
    assert rows(first.store, "SELECT version FROM checkpoints WHERE metrics @> '{\"deleted\": true}' ORDER BY 1") == [
        (1,),
        (3,),
        (7,),
    ]
    kept = fates(first)
    assert (kept["rejected"], kept["held"], kept["running"]) == ("skipped:rejected", None, "claimed")
    assert rows(first.store, "SELECT count(*) FROM jobs WHERE verdict = 'rejected'") == [(2,)]
    upgrade(first_release_url)
    first.store.engine.dispose()
    states = dict(rows(first.store, "SELECT version, state FROM checkpoints"))
    assert states == STATES | {0: "serving", 2: "rolled_back", 9: "refused"}
    assert fates(first) == kept | {"rejected": "skipped:refused"}
    assert books_agree(first.store)


def test_going_back_with_a_policy_that_waits_strands_no_answer(first: FirstRelease, first_release_url: str) -> None:
    downgrade(first_release_url, "0001")
    first.store.engine.dispose()
    assert fates(first)["held"] == "learned", "that release knows no answers that wait for a decision"
    upgrade(first_release_url)
    first.store.engine.dispose()
    assert fates(first)["held"] == "claimed"
