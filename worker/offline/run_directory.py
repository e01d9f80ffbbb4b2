"""The directory of a run: what it was asked to do, its checkpoints, its metrics.

    run.json        data, model, recipe: written first, so a run can be resumed from its directory alone
    checkpoints/    v00000010 and so on, in the Hugging Face layout; the newest and the best are kept
    metrics.jsonl   a line per update and per validation

A place is part of its checkpoint's manifest, which is written last: weights, optimizer and place are saved together or
not at all. Leaves out what the figures mean (`train`).
"""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from app.errors import BadRequest, Conflict
from training.models.checkpoint import checkpoint_dir, publish, sweep, verify
from training.models.policy import Policy
from training.models.seal import BadCheckpoint
from worker.retention import remove, versions_on_disk

RUN: Final = "run.json"
CHECKPOINTS: Final = "checkpoints"
METRICS: Final = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class Best:
    """The validation that went best; of equals, the first."""

    step: int
    accuracy: float  # in [0, 1]


@dataclass(frozen=True, slots=True)
class Place:
    """How far a run is."""

    step: int = 0  # updates done, refused ones included
    validated: int | None = None  # step of the last validation
    best: Best | None = None


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """One run's directory."""

    directory: Path

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.directory / CHECKPOINTS

    def begin(self, asked: Mapping[str, Any]) -> None:
        """Make the directory and write down what the run is asked to do.

        Raises:
            Conflict: something is there already.

        """
        if self.directory.exists() and any(self.directory.iterdir()):
            raise Conflict(f"'{self.directory}' is not empty: give another --out, or --resume to go on with that run")
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / RUN).write_text(json.dumps(asked, indent=2) + "\n", encoding="utf-8")

    def asked(self) -> dict[str, Any]:
        """Read what the run was asked to do.

        Raises:
            BadRequest: this is no run's directory.

        """
        try:
            found: dict[str, Any] = json.loads((self.directory / RUN).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadRequest(f"nothing to resume in '{self.directory}' ({error}): start without --resume") from error
        return found

    def newest(self) -> tuple[Path, Place] | None:
        """Find the newest whole checkpoint and the place it was saved at; what killed runs left behind is removed."""
        sweep(self.checkpoints)
        on_disk = versions_on_disk(self.checkpoints)
        for directory in self.checkpoints.glob("v*"):
            if directory not in on_disk.values():
                shutil.rmtree(directory)
        for version in sorted(on_disk, reverse=True):
            try:
                place = verify(on_disk[version]).training["place"]
            except BadCheckpoint:
                shutil.rmtree(on_disk[version])
                continue
            best = Best(**place["best"]) if place["best"] else None
            return on_disk[version], Place(place["step"], place["validated"], best)
        return None

    def holds(self, step: int) -> bool:
        """Return whether the checkpoint of a step is in the directory."""
        return step in versions_on_disk(self.checkpoints)

    def save(
        self, policy: Policy, state: dict[str, Tensor], place: Place, beside: Callable[[Path], None] | None
    ) -> None:
        """Publish the weights as the version of this step, once, and delete all but the newest and the best.

        Args:
            policy: what is published.
            state: of its learner; not looked at where the version is in the directory.
            place: how far the run is.
            beside: writes more into the checkpoint before it counts.

        """
        on_disk = versions_on_disk(self.checkpoints)
        if place.step not in on_disk:
            publish(
                policy,
                self.checkpoints,
                version=place.step,
                parent_version=max(on_disk, default=None),
                training={"place": asdict(place), **self.asked()},
                created=datetime.now(UTC).isoformat(),
                training_state=state,
                beside=beside,
            )
        kept = {place.step, place.best.step if place.best else place.step}
        for version, directory in on_disk.items():
            if version not in kept:
                remove(directory)

    def path(self, step: int) -> Path:
        """Directory of a step's checkpoint."""
        return checkpoint_dir(self.checkpoints, step)

    def record(self, step: int, figures: Mapping[str, Any]) -> None:
        """Append a line of metrics."""
        with (self.directory / METRICS).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"step": step, **figures}) + "\n")

    def forget_after(self, step: int) -> None:
        """Drop the metrics of updates that were lost with the process, and a line it did not finish."""
        path = self.directory / METRICS
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        path.write_text("".join(kept), encoding="utf-8")
