"""Every kind of fault, with the time within which the service must be well again: a list to read."""

import shutil
from dataclasses import dataclass
from typing import Final

from benchmarks.chaos import learner, parts, traffic
from benchmarks.chaos.learner import PHASES, Fault


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault."""

    name: str
    fault: Fault
    recover_s: float  # from its end until answers, a new update that serves, and servers that serve it
    quick: bool = False  # part of the quick form
    needs: str | None = None  # a program without which it cannot be made

    @property
    def impossible(self) -> str | None:
        """Why it cannot be made here."""
        if self.needs is not None and shutil.which(self.needs) is None:
            return f"the program {self.needs} is not installed"
        return None


KINDS: Final = {
    one.name: one
    for one in (
        *(Kind(f"learner-killed-in-{p}", learner.killed_in(p), 45.0, quick=p == "publish") for p in PHASES),
        Kind("learner-asked-to-end", learner.asked_to_end, 45.0),
        Kind("learner-stopped-past-lease", learner.stopped_past_its_lease, 45.0),
        Kind("two-learners", learner.two_learners, 30.0),
        Kind("disk-full-at-publish", learner.disk_full, 60.0, quick=True),
        Kind("out-of-memory-in-update", learner.out_of_memory, 60.0),
        *(Kind(f"rollback-in-{p}", learner.rolled_back_in(p), 30.0, quick=p == "update") for p in PHASES),
        Kind("rollback-twice", learner.rolled_back_twice, 30.0),
        Kind("freeze-in-update", learner.frozen_in_update, 30.0, quick=True),
        Kind("clock-3s-ahead", learner.clock_off("+3s"), 45.0, needs="faketime"),
        Kind("clock-1h-ahead", learner.clock_off("+1h"), 45.0, needs="faketime"),
        Kind("server-killed", parts.killed("api"), 45.0),
        Kind("postgres-killed", parts.killed("postgres"), 45.0),
        Kind("postgres-backend-killed", parts.backend_killed, 45.0),
        Kind("postgres-frozen", parts.postgres_frozen, 60.0),
        Kind("connections-cut", parts.connections_cut, 30.0, quick=True),
        Kind("redis-killed", parts.killed("redis"), 45.0),
        Kind("redis-flushed", parts.redis_flushed, 30.0, quick=True),
        Kind("redis-cut-off", parts.redis_cut_off, 45.0),
        Kind("clock-killed", parts.killed("beat"), 30.0),
        Kind("checkpoint-corrupt", parts.damaged(parts.corrupt), 60.0),
        Kind("checkpoint-truncated", parts.damaged(parts.truncated), 60.0),
        Kind("checkpoint-missing", parts.damaged(parts.missing), 60.0),
        Kind("checkpoint-unsealed", parts.damaged(parts.unsealed), 60.0),
        Kind("nan-promoted", parts.nan_promoted, 45.0),
        Kind("stale-backlog", traffic.stale_backlog, 60.0),
        Kind("pending-backlog", traffic.pending_backlog, 60.0),
        Kind("grader-hangs", traffic.grader_hangs, 30.0),
        Kind("poisoned-key", traffic.poisoned_key, 30.0),
        Kind("slow-reader", traffic.slow_reader, 30.0),
        Kind("second-key", traffic.second_key, 30.0, quick=True),
    )
}
