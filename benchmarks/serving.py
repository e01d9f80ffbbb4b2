"""A whole server for a measurement: Postgres, Redis and uvicorn as processes of their own, on random weights.

It is the stack that `lepo up` runs, without the worker and the clock: what is measured is answering and swapping.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from app.stack.stack import Stack
from app.store.connect import Store, open_store
from benchmarks.shapes import Shape, save_model

SERVED_NAME = "bench"


@dataclass(frozen=True, slots=True)
class Served:
    """A running server."""

    base_url: str  # without a path
    key: str  # with scopes infer and admin
    store: Store  # its database
    directory: Path  # where its checkpoints lie, and room for others

    @property
    def checkpoints(self) -> Path:
        """Where its base model was published."""
        return self.directory / "var" / "checkpoints"


@contextmanager
def serving(shape: Shape, seed: int, settings: dict[str, str]) -> Iterator[Served]:
    """Run a server on a random model of a shape until the block ends.

    Args:
        shape: of the model; its weights are drawn from `seed`.
        seed: of the weights.
        settings: of the server, as environment variables, over those of a measurement.

    """
    with TemporaryDirectory(prefix="lepo-bench-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        save_model(shape, seed, directory / "model")
        env = {
            "LEPO_MODEL": str(directory / "model"),
            "LEPO_SERVED_NAME": SERVED_NAME,
            "LEPO_PORT": "0",
            "LEPO_LEARN": "false",
            **settings,
        }
        with Stack(directory / "var", env, parts=("api",)) as stack:
            key = stack.create_key("bench", ("infer", "admin"))
            store = open_store(stack.database_url, pool=4)
            try:
                yield Served(stack.base_url, key, store, directory)
            finally:
                store.close()
