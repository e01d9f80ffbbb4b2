"""Any order of updates and operators' commands: who serves, what waits, what is learned, and that once."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID, uuid4

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import select

from app.errors import Conflict
from app.store import checkpoints, jobs, learning, lineage, policy_life
from app.store.claims import MOST_REFUSALS, Settlement
from app.store.connect import Store
from app.store.policy_life import LIFE, UNDECIDED, Event
from app.store.tables import Checkpoint
from tests.app.store.acts import LEASE, books_agree, grade, take
from tests.app.store.machines import base, fates, run


class Policies(RuleBasedStateMachine):
    """Updates and operators: who serves, what waits, what is learned, over any history."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.base, self.answers = base(store, 8)
        for one in self.answers:
            grade(store, one)
        self.rows = [self.base]  # by version
        self.state = ["serving"]
        self.parent: list[int | None] = [None]
        self.made: list[set[UUID]] = [set()]  # answers that each policy's weights were made from
        self.fate = dict.fromkeys(self.answers, "fresh")
        self.refused = dict.fromkeys(self.answers, 0)
        self.promotions: list[tuple[int | None, int]] = [(None, 0)]
        self.shown = False  # whether what serves was put there by figures, and not by a person
        self.frozen = self.pinned = False

    def serving(self) -> int:
        return self.state.index("serving")

    def undecided(self) -> list[int]:
        return [version for version, state in enumerate(self.state) if state in UNDECIDED]

    def settle(self, version: int, settlement: Settlement) -> None:
        for one in self.made[version]:
            if settlement == "learn":
                self.fate[one] = "learned"
            elif settlement == "release":
                self.fate[one] = "fresh"
            elif settlement == "refuse":
                self.refused[one] += 1
                self.fate[one] = "skipped" if self.refused[one] >= MOST_REFUSALS else "fresh"

    def happen(self, version: int, event: Event) -> None:
        """Note an event that was accepted."""
        done = LIFE[(self.state[version], event)]  # type: ignore[index]
        self.state[version] = done.to
        self.settle(version, done.claims)

    def promoted(self, version: int, *, shown: bool = False) -> None:
        before = self.serving()
        self.shown = shown
        self.happen(before, "retire")
        self.happen(version, "promote")
        self.promotions.append((before, version))

    @contextmanager
    def refusing(self, wanted: bool) -> Iterator[None]:
        """Expect a conflict, or none."""
        try:
            yield
        except Conflict:
            assert wanted, "refused for no reason"
        else:
            assert not wanted, "it should have been refused"

    @precondition(lambda self: not self.undecided() and not self.frozen)
    @rule(
        wanted=st.integers(1, 3),
        event=st.sampled_from(["promote", "promote", "hold", "shadow", "canary", "refuse"]),
    )
    def update(self, wanted: int, event: Event) -> None:
        """A worker makes a policy from fresh answers, as an update does."""
        free = [one for one in self.answers if self.fate[one] == "fresh"][:wanted]
        serving = self.rows[self.serving()]
        with self.store.session() as session:
            jobs.request(session, trigger="schedule", requested_by="beat")
            job = jobs.start(session, "w", LEASE)
        assert job is not None
        assert job.fence is not None
        assert {item.interaction.id for item in take(self.store, job, free)} == set(free)
        pinned = event == "promote" and self.pinned
        with self.refusing(pinned), self.store.session() as session:
            row = checkpoints.publish(session, path="/c", digest=uuid4().hex, parent_id=serving.id, job_id=job.id)
            if event == "promote":
                passed = {"decision": "pass"}
                policy_life.promote(session, row.id, "gate", "worker", expected=serving.id, figures=passed)
            else:
                policy_life.move(session, row.id, event, "gate", "worker")
            jobs.finish(session, job.id, job.fence, "succeeded", "keep", result_checkpoint_id=row.id)
        if pinned:
            with self.store.session() as session:
                jobs.finish(session, job.id, job.fence, "cancelled", "release")
            return
        assert row.version == len(self.rows)
        self.rows.append(row)
        self.state.append("candidate")
        self.parent.append(serving.version)
        self.made.append(set(free))
        for one in free:
            self.fate[one] = "claimed"
        if event == "promote":
            self.promoted(row.version, shown=True)
        else:
            self.happen(row.version, event)

    def servable(self, version: int) -> bool:
        """Whether an operator may serve it: it waits, or it served before."""
        served = any(version == after for _, after in self.promotions)
        return self.state[version] in UNDECIDED or (served and self.state[version] in {"retired", "rolled_back"})

    @rule(data=st.data())
    def promote(self, data: st.DataObject) -> None:
        version = data.draw(st.integers(0, len(self.rows) - 1))
        already = version == self.serving()
        with (
            self.refusing(not already and (self.pinned or not self.servable(version))),
            self.store.session() as session,
        ):
            done = policy_life.promote(session, self.rows[version].id, "wanted", "ops")
            assert (done is None) == already
        if not already and not self.pinned and self.servable(version):
            self.promoted(version)

    @rule(data=st.data())
    def promote_what_was_overtaken(self, data: st.DataObject) -> None:
        """Somebody expects another policy to serve than the one that does."""
        version, expected = (data.draw(st.integers(0, len(self.rows) - 1)) for _ in range(2))
        if expected == self.serving() or version == self.serving():
            return
        with self.refusing(True), self.store.session() as session:
            policy_life.promote(session, self.rows[version].id, "late", "w", expected=self.rows[expected].id)

    @rule(data=st.data(), event=st.sampled_from(["discard", "shadow", "canary", "roll_back"]))
    def move(self, data: st.DataObject, event: Event) -> None:
        version = data.draw(st.integers(0, len(self.rows) - 1))
        if version == self.serving() and event == "roll_back":
            return  # a rollback is made by `roll_back`, which puts another in its place
        done = LIFE.get((self.state[version], event))  # type: ignore[arg-type]
        taken = done is not None and done.to in {"shadow", "canary"} and done.to in self.state
        with self.refusing(done is None or taken), self.store.session() as session:
            policy_life.move(session, self.rows[version].id, event, "so it is", "ops")
        if done is not None and not taken:
            self.happen(version, event)

    def default(self) -> int | None:
        """Where a rollback goes that names nothing."""
        serving = self.serving()
        last = max(at for at, (_, after) in enumerate(self.promotions) if after == serving)
        came_before = [before for before, _ in self.promotions[: last + 1] if before not in {None, serving}]
        return next((one for one in reversed(came_before) if self.state[one] == "retired"), None)

    @rule(data=st.data(), named=st.booleans())
    def roll_back(self, data: st.DataObject, named: bool) -> None:
        target = data.draw(st.integers(0, len(self.rows) - 1)) if named else self.default()
        before = self.serving()
        served = target is not None and any(target == after for _, after in self.promotions)
        possible = served and self.state[target] in {"serving", "retired", "rolled_back"}  # type: ignore[index]
        to = self.rows[target].id if named and target is not None else None
        with self.refusing(not possible), self.store.session() as session:
            done = policy_life.rollback(session, "ops", to)
            assert (done is None) == (target == before)
        if possible and target != before:
            self.happen(before, "roll_back")
            self.happen(target, "restore")  # type: ignore[arg-type]
            self.shown = False
            for version in self.undecided():
                self.happen(version, "discard")
            self.frozen = True

    @rule(data=st.data())
    def fall_back(self, data: st.DataObject) -> None:
        """The gate finds a forebear, or what it takes for one, to be better than what it takes for serving."""
        version = data.draw(st.integers(0, len(self.rows) - 1))
        before = self.serving()
        expected = data.draw(st.sampled_from([before, before, version]))
        free = self.shown and not self.pinned and not self.frozen
        possible = free and expected == before and self.state[version] == "retired"
        with self.store.session() as session:
            figures = {"gate": {"decision": "refuse"}}
            done = policy_life.fall_back(session, self.rows[expected].id, version, "better", "worker", figures=figures)
        assert (done is not None) == possible
        if possible:
            self.happen(before, "roll_back")
            self.happen(version, "restore")

    @rule(on=st.booleans())
    def freeze(self, on: bool) -> None:
        with self.store.session() as session:
            changed = learning.freeze(session, "ops", "why") if on else learning.thaw(session, "ops")
        assert changed == (self.frozen != on)
        self.frozen = on

    @rule(on=st.booleans())
    def pin(self, on: bool) -> None:
        with self.store.session() as session:
            changed = learning.pin(session, "ops", "why") if on else learning.unpin(session, "ops")
        assert changed == (self.pinned != on)
        self.pinned = on

    @invariant()
    def states_are_what_the_last_accepted_commands_said(self) -> None:
        with self.store.session() as session:
            rows = session.scalars(select(Checkpoint).order_by(Checkpoint.version))
            assert [row.state for row in rows] == self.state
            control = learning.read(session)
        assert (control.frozen_at is not None, control.pinned_at is not None) == (self.frozen, self.pinned)
        for alone in ("serving", "shadow", "canary"):
            assert self.state.count(alone) <= 1
        assert self.state.count("serving") == 1

    @invariant()
    def every_answer_is_in_one_place(self) -> None:
        assert fates(self.store) == self.fate
        assert books_agree(self.store)

    @invariant()
    def what_serves_contains_each_answer_once_and_nobody_may_learn_it_again(self) -> None:
        version: int | None = self.serving()
        inside: list[UUID] = []
        while version is not None:
            inside += self.made[version]
            version = self.parent[version]
        assert len(inside) == len(set(inside)), "learned twice"
        assert {self.fate[one] for one in inside} <= {"learned"}
        with self.store.session() as session:
            row = self.rows[self.serving()]
            assert lineage.contents(session, row.id).answers == len(inside)
            assert sum(one.learned for one in lineage.ancestors(session, row.id)) == len(inside)


def test_any_order_of_moves(store: Store) -> None:
    run(lambda: Policies(store))
