"""What the routes about policies send, as models: checkpoints, moves, trials, swaps. The rest: `shapes`."""

from typing import Literal

from pydantic import Field

from app.api.http.pages import Page
from app.api.http.shapes import CheckpointId, JobId, Object, Shape, Time, identifier
from app.store.policy_life import State


class Checkpoint(Shape):
    """One set of weights: a policy."""

    id: CheckpointId
    object: Literal["checkpoint"]
    version: int = Field(description="0 is the base model.")
    state: State
    parent_id: CheckpointId | None
    job_id: JobId | None = Field(description="The job that made it.")
    path: str = Field(description="Where it lies, in the Hugging Face layout.")
    digest: str = Field(description="SHA-256 of its parameters.")
    metrics: Object
    files_deleted_at: Time | None
    created_at: Time


class Checkpoints(Page[Checkpoint]):
    """Policies, the newest first."""


class PolicyMoved(Checkpoint):
    """What serves now."""

    changed: bool = Field(description="False where the wish was true already.")


class Move(Shape):
    """One move in the life of a policy."""

    id: str = identifier("move")
    object: Literal["transition"]
    checkpoint_id: CheckpointId
    from_: State | None = Field(alias="from", description="Null: it was made.")
    to: State
    event: str = Field(examples=["promote"])
    replaced_id: CheckpointId | None = Field(description="What served until this one did.")
    reason: str
    actor: str = Field(description="A key's id, a login's name, or a part of this product.")
    figures: Object = Field(description="What the decision rests on.")
    job_id: JobId | None
    created_at: Time


class Moves(Page[Move]):
    """Moves of all policies, the newest first."""


class CheckpointRead(Checkpoint):
    """A policy with its history."""

    transitions: list[Move] = Field(description="The newest first.")


class Contents(Shape):
    """All that went into a policy."""

    answers: int
    by_key: dict[str, int] = Field(description="Key whose grades count -> answers; `server`: graded here.")
    by_grader: dict[str, int]
    first_answer_at: Time | None
    last_answer_at: Time | None


class Ancestor(Shape):
    """One policy of a lineage, and what it added to its parent."""

    id: CheckpointId
    version: int
    state: State
    job_id: JobId | None
    learned: int = Field(description="Answers it was made from.")
    reward: float | None = Field(description="Mean of their rewards now.")
    config: Object
    created_at: Time


class Lineage(Shape):
    """What a policy descends from and contains."""

    object: Literal["lineage"]
    checkpoint_id: CheckpointId
    version: int
    contents: Contents
    ancestors: list[Ancestor]


class Decision(Shape):
    """What happens next."""

    step: str
    words: str


class Trial(Shape):
    """A policy on trial."""

    object: Literal["trial"]
    stage: str = Field(examples=["canary"])
    checkpoint_id: CheckpointId
    version: int
    began_at: Time
    figures: Object = Field(description="What grades show by now.")
    verdict: Decision | None = Field(description="Null while it goes on.")


class Trials(Page[Trial]):
    """Trials under way."""


class Swap(Shape):
    """One attempt of one server process to take new weights."""

    id: str = identifier("swap")
    object: Literal["swap"]
    replica: str
    from_version: int | None
    to_version: int
    status: Literal["served", "failed"]
    staged_ms: float | None
    pause_ms: float | None
    pause_steps: float | None
    fingerprint: str | None
    error: str | None
    created_at: Time


class Swaps(Page[Swap]):
    """Swaps, the newest first."""
