"""The learner's lock: one at a time, freed by its holder's death, never inherited through the pool."""

import signal
import subprocess
import sys
import time

from app.store.connect import Store, open_store
from worker.lock import learner_lock

HOLDER = """
import sys, time
from app.store.connect import open_store
from worker.lock import learner_lock
with learner_lock(open_store(sys.argv[1])) as taken:
    print(taken, flush=True)
    time.sleep(60)
"""


def test_a_second_learner_is_turned_away_until_the_first_is_done(store: Store, database_url: str) -> None:
    other = open_store(database_url)
    with learner_lock(store) as first, learner_lock(other) as second:
        assert (first, second) == (True, False)
    with learner_lock(other) as third:
        assert third
    other.close()


def test_the_lock_does_not_live_on_in_the_pool(database_url: str) -> None:
    one = open_store(database_url, pool=1)
    other = open_store(database_url, pool=1)
    with learner_lock(one):
        pass
    one.ping()  # the same pool, a connection that must not still hold it
    with learner_lock(other) as taken:
        assert taken
    one.close()
    other.close()


def test_a_killed_holder_frees_it(store: Store, database_url: str) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, database_url], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "True"
        with learner_lock(store) as taken:
            assert not taken
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    for _ in range(100):
        with learner_lock(store) as taken:
            if taken:
                return
        time.sleep(0.05)
    raise AssertionError("the lock of a killed process was not freed in 5 s")
