"""Where the figures of updates go besides the project's own records: TensorBoard's files, an MLflow server.

Both are optional packages, asked for by name. Leaves out which figures there are (`training.update`,
`worker.offline.train`): whatever is a number is recorded, under the kind of line it stood on.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

Record = Callable[[int, Mapping[str, Any]], None]  # told (step, figures); `figures["kind"]` names the kind of line

EXPERIMENT: Final = "lepo"  # of MLflow
PATIENCE_S: Final = 5.0  # for the first answer of a server

log = logging.getLogger(__name__)


class RecorderUnavailable(ValueError):
    """A recorder was asked for that cannot work; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Destinations:
    """What to record to; None leaves one out."""

    tensorboard: Path | None = None  # directory of the event files
    mlflow: str | None = None  # tracking URI: http://..., sqlite:///..., or as MLflow knows them

    @contextmanager
    def open(self, run: str, done: int) -> Iterator[list[Record]]:
        """Open what was asked for; closed, all of it is written.

        Args:
            run: the run's name; MLflow goes on with a run of that name if there is one.
            done: steps that stand already: what TensorBoard's files say of later ones, from a process that died
                before it could save them, is hidden.

        Raises:
            RecorderUnavailable: a package is missing, or a server does not answer.

        """
        with ExitStack() as opened:
            records = []
            if self.tensorboard is not None:
                records.append(opened.enter_context(_tensorboard(self.tensorboard, done)))
            if self.mlflow is not None:
                records.append(_mlflow(self.mlflow, run))
            yield records


def scalars(figures: Mapping[str, Any]) -> dict[str, float]:
    """Pick the numbers, nested ones too, by `kind/name`."""
    kind = figures.get("kind", "update")
    return {f"{kind}/{name}": value for name, value in _numbers(figures)}


def _numbers(figures: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{above}{name}/")
        elif isinstance(value, int | float):
            yield above + name, float(value)


@contextmanager
def _tensorboard(directory: Path, done: int) -> Iterator[Record]:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise RecorderUnavailable(
            "TensorBoard files need a package: pip install 'lepo-service[tensorboard]'"
        ) from error
    writer = SummaryWriter(str(directory), purge_step=done + 1 if done else None)

    def record(step: int, figures: Mapping[str, Any]) -> None:
        for name, value in scalars(figures).items():
            writer.add_scalar(name, value, step)
        writer.flush()

    try:
        yield record
    finally:
        writer.close()


def _require_answer(uri: str) -> None:
    """Ask a server for a sign of life, once: MLflow's own client would try a dead one for minutes."""
    if not uri.startswith(("http://", "https://")):
        return
    try:
        httpx.head(uri, timeout=PATIENCE_S)
    except httpx.HTTPError as error:
        raise RecorderUnavailable(f"MLflow at {uri} does not answer: {error}") from error


def _mlflow(uri: str, run: str) -> Record:
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise RecorderUnavailable("MLflow needs its client: pip install 'lepo-service[mlflow]'") from error
    import time

    _require_answer(uri)
    try:
        client = MlflowClient(uri)
        known = client.get_experiment_by_name(EXPERIMENT)
        experiment = client.create_experiment(EXPERIMENT) if known is None else known.experiment_id
        named = client.search_runs([experiment], f"attributes.run_name = '{run}'", max_results=1)
        run_id = (named[0] if named else client.create_run(experiment, run_name=run)).info.run_id
    except MlflowException as error:
        raise RecorderUnavailable(f"MLflow at {uri} does not take records: {error}") from error

    def record(step: int, figures: Mapping[str, Any]) -> None:
        now = int(time.time() * 1000)
        try:
            client.log_batch(run_id, [Metric(name, value, now, step) for name, value in scalars(figures).items()])
        except MlflowException as error:  # learning goes on: the project's own records have the figures
            log.warning("MLflow at %s did not take the figures of step %d: %s", uri, step, error)

    return record
