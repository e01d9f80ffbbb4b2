"""Every kind of row has an end of life, by its own setting; what lineage counts stays; two sweeps harm nobody."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import delete, func, select, text

from app.settings import Settings
from app.store import (
    audit,
    checkpoints,
    claims,
    evaluations,
    events,
    jobs,
    lent,
    lineage,
    policy_life,
    retention,
    swaps,
    tracker,
)
from app.store.base import Base
from app.store.claims import any_of
from app.store.connect import Store
from app.store.erasure import Subject, begin, step
from app.store.grades import Entry, add_grade
from app.store.idempotency import Begun, finish
from app.store.idempotency import begin as begin_once
from app.store.jobs import request
from app.store.keys import create_key
from app.store.migrate import downgrade, upgrade
from app.store.removed import Erasure, Tombstone
from app.store.tables import (
    Checkpoint,
    Claim,
    Evaluation,
    Grade,
    IdempotencyKey,
    Interaction,
    Job,
    JobEvent,
    StoredRollout,
    Swap,
    TrackerValue,
)
from app.store.tenants import AuditEntry, LentToken
from tests.app.store.learned import age, learned
from tests.conftest import Answers

SETTINGS = [name for name in Settings.model_fields if name.startswith("keep_") and name.endswith("_days")]
FOR_EVER = dict.fromkeys(SETTINGS, 0.0)


def only(**days: float) -> Settings:
    return Settings.model_validate({**FOR_EVER, **days})


def count(store: Store, table: type[Base]) -> int:
    with store.session() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def make_idempotency_key(store: Store, answers: Answers) -> None:
    with store.session() as session:
        begun = begin_once(session, "key", "one", "POST /x", b"")
        assert isinstance(begun, Begun)
        finish(session, begun, 200, {})


def make_event(store: Store, answers: Answers) -> None:
    with store.session() as session:
        events.say(session, request(session, trigger="admin", requested_by="t").id, "hello")


def make_job(store: Store, answers: Answers) -> None:
    with store.session() as session:
        job = request(session, trigger="admin", requested_by="t")
        events.say(session, job.id, "hello")
        jobs.cancel(session, job.id)


def make_learned(store: Store, answers: Answers) -> None:
    learned(store, answers(2))


def make_unlearnable(store: Store, answers: Answers) -> None:
    from app.store import interactions

    [one] = answers(1, learnable=False, unlearnable_reason="cancelled")
    with store.session() as session:
        session.add(StoredRollout(interaction_id=one, codec=1, payload=b"x", learnable=False))
        assert interactions.rollout(session, one) is not None


def make_ungraded(store: Store, answers: Answers) -> None:
    answers(2)


def make_graded(store: Store, answers: Answers) -> None:
    for one in answers(2):
        with store.session() as session:
            add_grade(session, one, Entry("client", "a", value=1.0))


def make_evaluation(store: Store, answers: Answers) -> None:
    with store.session() as session:
        base = policy_life.serving(session)
        assert base is not None
        old = checkpoints.publish(session, path="/m/1", digest="11" * 32, parent_id=base.id)
        policy_life.move(session, old.id, "refuse", "worse", "test")
        for checkpoint in (base, old):
            evaluations.record_evaluation(session, checkpoint.id, "gate", correct=1, total=2, detail={"seed": 1})


def make_swap(store: Store, answers: Answers) -> None:
    with store.session() as session:
        swaps.record_swap(session, Swap(replica="a:1", to_version=1, status="served"))


def make_tracker(store: Store, answers: Answers) -> None:
    with store.session() as session:
        tracker.write_beliefs(session, {"a": tracker.Belief(1.0, 1.0, 0)})


def make_tombstone(store: Store, answers: Answers) -> None:
    answers(1, user_tag="ada")
    subject = Subject(user="ada")
    with store.session() as session:
        wish = begin(session, subject, "test")
        while step(session, wish.id, subject):
            pass


def make_audit(store: Store, answers: Answers) -> None:
    with store.session() as session:
        audit.done(session, "login:ada", "keys create", "k")


def make_token(store: Store, answers: Answers) -> None:
    [answer] = answers()
    with store.session() as session:
        key, _ = create_key(session, "k", ["grade"])
        lent.lend(session, answer, key.id, 1, timedelta(0))


CASES: dict[str, tuple[Callable[[Store, Answers], None], str, dict[str, int], type[Base], int]] = {
    # setting: what to make, the rule, what it removes, the table, how many rows stay
    "idempotency_keys": (make_idempotency_key, "keep_idempotency_days", {"idempotency_keys": 1}, IdempotencyKey, 0),
    "job_events": (make_event, "keep_events_days", {"job_events": 1}, JobEvent, 0),
    "jobs": (make_job, "keep_jobs_days", {"jobs": 1}, Job, 0),
    "rollouts": (make_learned, "keep_rollouts_days", {"rollouts": 2}, StoredRollout, 0),
    "unlearnable": (make_unlearnable, "keep_rollouts_days", {"unlearnable_rollouts": 1}, StoredRollout, 0),
    "ungraded": (make_ungraded, "keep_ungraded_days", {"ungraded_answers": 2}, Interaction, 0),
    "graded": (make_graded, "keep_graded_days", {"graded_answers": 2}, Interaction, 0),
    "evaluations": (make_evaluation, "keep_evaluations_days", {"evaluation_details": 1}, Evaluation, 2),
    "swaps": (make_swap, "keep_swaps_days", {"swaps": 1}, Swap, 0),
    "trackers": (make_tracker, "keep_trackers_days", {"tracker_values": 1}, TrackerValue, 0),
    "tombstones": (make_tombstone, "keep_tombstones_days", {"tombstones": 1, "erasures": 1}, Tombstone, 0),
    "audit": (make_audit, "keep_audit_days", {"audit": 1}, AuditEntry, 0),
    "tokens": (make_token, "keep_idempotency_days", {"grading_tokens": 1}, LentToken, 0),
}


def test_every_setting_has_a_case_and_every_rule_a_setting() -> None:
    assert {case[1] for case in CASES.values()} == set(SETTINGS)
    assert {rule.setting for rule in retention.RULES} == set(SETTINGS)


@pytest.mark.parametrize("case", CASES)
def test_rows_go_when_their_time_is_over_and_not_before(store: Store, answers: Answers, case: str) -> None:
    make, setting, removed, table, left = CASES[case]
    make(store, answers)
    before = count(store, table)
    age(store, days=9)
    assert retention.sweep(store, only(**{setting: 10.0})) == {}
    assert retention.sweep(store, only()) == {}, "0 keeps for ever"
    dry = retention.sweep(store, only(**{setting: 8.0}), dry_run=True)
    assert dry == {name: rows for name, rows in removed.items() if name != "erasures"}, "wishes go after tombstones"
    assert count(store, table) == before
    assert retention.sweep(store, only(**{setting: 8.0})) == removed
    assert count(store, table) == left
    assert retention.sweep(store, only(**{setting: 8.0})) == {}


def test_only_the_detail_of_an_evaluation_goes_and_what_serves_keeps_its_own(store: Store, answers: Answers) -> None:
    make_evaluation(store, answers)
    age(store, days=9)
    retention.sweep(store, only(keep_evaluations_days=8.0))
    with store.session() as session:
        rows = session.execute(select(Checkpoint.version, Evaluation.total, Evaluation.detail).join(Checkpoint))
        assert sorted(rows, key=lambda row: row[0]) == [(0, 2, {"seed": 1}), (1, 2, None)]


def test_a_job_that_made_a_policy_or_holds_claims_stays(store: Store, answers: Answers) -> None:
    learned(store, answers(2))
    make_job(store, answers)
    age(store, days=9)
    assert retention.sweep(store, only(keep_jobs_days=8.0)) == {"jobs": 1}
    assert count(store, Job) == 1


def test_an_answer_that_a_job_holds_stays_until_it_is_decided(store: Store, answers: Answers) -> None:
    version = learned(store, ids := answers(2), decide=False)
    age(store, days=9)
    assert retention.sweep(store, only(keep_graded_days=8.0, keep_rollouts_days=8.0)) == {}
    with store.session() as session:
        held = checkpoints.by_version(session, version)
        policy_life.promote(session, held.id, "good", "test")
    assert retention.sweep(store, only(keep_graded_days=8.0)) == {"graded_answers": len(ids)}


def test_lineage_counts_learned_answers_after_they_are_gone(store: Store, answers: Answers) -> None:
    version = learned(store, answers(3), rewards=(0.0, 0.5, 1.0))

    def seen() -> tuple[Any, ...]:
        with store.session() as session:
            row = checkpoints.by_version(session, version)
            policy = lineage.ancestors(session, row.id)[0]
            return (
                policy.learned,
                policy.reward,
                lineage.contents(session, row.id),
                lineage.count_learned(session, row.id),
            )

    age(store, days=9)
    before = seen()
    assert before[:2] == (3, 0.5)
    assert retention.sweep(store, only(keep_graded_days=8.0)) == {"graded_answers": 3}
    assert seen() == before
    assert (count(store, Interaction), count(store, Grade), count(store, Claim)) == (0, 0, 3)


def test_a_batch_is_a_transaction_and_the_sweep_can_be_stopped_between_two(store: Store, answers: Answers) -> None:
    answers(7)
    age(store, days=9)
    rule = retention.Rule("few", "keep_ungraded_days", retention.ungraded, retention.gone_answers, Interaction, batch=2)
    looks = iter([False, False, True])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retention, "RULES", (rule,))
        swept = retention.sweep(store, only(keep_ungraded_days=8.0), until=lambda: next(looks))
        assert swept == {"few": 4}
        assert count(store, Interaction) == 3
        assert retention.sweep(store, only(keep_ungraded_days=8.0)) == {"few": 3}


def test_two_sweeps_at_once_share_the_work_and_wait_for_nobody(store: Store, answers: Answers) -> None:
    for _ in range(30):
        answers(20)
    age(store, days=9)
    held = threading.Event()
    done = threading.Event()

    def hold() -> UUID:
        with store.session() as session:
            one = session.scalars(select(Interaction.id).limit(1).with_for_update()).one()
            held.set()
            assert done.wait(30)
        return one

    with ThreadPoolExecutor(3) as pool:
        holder = pool.submit(hold)
        assert held.wait(10)
        swept = [pool.submit(retention.sweep, store, only(keep_ungraded_days=8.0)) for _ in range(2)]
        counts = [one.result(timeout=30).get("ungraded_answers", 0) for one in swept]
        done.set()
        kept = holder.result()
    assert sum(counts) == 599
    with store.session() as session:
        assert list(session.scalars(select(Interaction.id))) == [kept]


def test_due_rows_are_found_by_an_index(store: Store) -> None:
    with store.session() as session:
        session.execute(text("SET LOCAL enable_seqscan = off"))
        for rule in retention.RULES:
            if rule.what in {"jobs", "erasures", "graded_answers"}:  # jobs and wishes are few; answers are few when due
                continue
            query = rule.due(timedelta(days=1)).limit(10).with_for_update(skip_locked=True, of=rule.rows)
            compiled = query.compile(session.connection(), compile_kwargs={"literal_binds": True})
            plan = "\n".join(session.scalars(text(f"EXPLAIN {compiled}")))
            assert "Index Scan" in plan, f"{rule.what}:\n{plan}"
            assert f"Seq Scan on {rule.rows.__tablename__}" not in plan


def test_removing_a_row_never_reads_a_whole_table() -> None:
    """Postgres looks for rows that refer to a removed one; without an index on the reference that is a scan, each."""
    going = {"interactions", "grades", "jobs", "erasures"}
    for table in Base.metadata.sorted_tables:
        indexed = {index.columns[0].name for index in table.indexes if len(index.columns)}
        indexed |= {next(iter(table.primary_key.columns)).name}
        for column in table.columns:
            if any(key.column.table.name in going for key in column.foreign_keys):
                assert column.name in indexed, f"{table.name}.{column.name} has no index"


def test_claims_come_to_an_end_though_their_answers_are_gone(store: Store, answers: Answers) -> None:
    assert claims.MOST_REFUSALS == 2
    learned(store, answers(2))
    age(store, days=9)
    retention.sweep(store, only(keep_graded_days=8.0))
    with store.session() as session:
        assert set(session.scalars(select(Claim.outcome))) == {"learned"}
        assert session.scalar(select(func.count()).select_from(Erasure)) == 0
        stones = session.scalars(select(Tombstone)).all()
        assert [(len(one.sha256), one.erasure_id) for one in stones] == [(32, None)] * 2


def test_the_migration_keeps_what_is_there(store: Store, answers: Answers, database_url: str) -> None:
    make_unlearnable(store, answers)
    learned(store, stays := answers(1))
    with store.session() as session:
        session.execute(delete(Interaction).where(Interaction.id == any_of(goes := answers(1))))
        session.add(Claim(interaction_id=goes[0], job_id=session.scalars(select(Job.id)).one(), outcome="learned"))
    store.close()
    downgrade(database_url, "0002")
    upgrade(database_url)
    with store.session() as session:
        rows = session.execute(select(StoredRollout.learnable, Interaction.learnable).join(Interaction)).all()
        assert sorted(map(tuple, rows)) == [(False, False), (True, True)]
        assert list(session.scalars(select(Claim.interaction_id))) == stays, "claims without an answer cannot go back"
