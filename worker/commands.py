"""The doors `lepo worker` and `lepo beat`: read the settings, then become that process.

Nothing heavy is imported before a command runs, so their `--help` is quick, and beat never loads torch.
"""

from typing import Any, Final

# No gossip, mingle or heartbeats: workers need not know of each other, Postgres knows them all.
WORKER: Final[dict[str, Any]] = {
    "without_gossip": True,
    "without_mingle": True,
    "without_heartbeat": True,
    "quiet": True,
    "loglevel": "INFO",
}
BEAT: Final[dict[str, Any]] = {"quiet": True, "loglevel": "INFO"}
