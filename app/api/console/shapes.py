"""What is looked at, as models. Leaves out writing it (each route's own file)."""

from typing import Any, Literal

from pydantic import Field

from app.api.http.pages import Page
from app.api.http.shapes import AnswerId, CheckpointId, JobId, Object, Reward, SessionId, Shape, Time
from app.store.policy_life import State


class Health(Shape):
    """It is alive."""

    status: Literal["ok"]


class Ready(Shape):
    """It may get traffic."""

    status: Literal["ready"]
    policy_version: int


class Version(Shape):
    """What it is."""

    version: str = Field(examples=["0.1.0"])
    policy_version: int = Field(description="That new answers start on.")


class Interaction(Shape):
    """An answer and what was asked for it."""

    id: AnswerId
    object: Literal["interaction"]
    created_at: Time
    completion_id: str = Field(description="The response's id.")
    choice: int
    group_size: int = Field(description="`n` of the request.")
    endpoint: Literal["chat", "completion", "response"]
    model: str
    checkpoint_id: CheckpointId
    policy_version: int
    key: str | None = Field(description="That asked.")
    project: str
    request: Object = Field(description="As it was asked.")
    prompt_text: str = Field(description="As the model saw it.")
    answer: str
    finish_reason: Literal["stop", "length", "cancelled", "deadline"]
    usage: Object
    grader: Object | None
    grading_state: Literal["none", "pending", "graded", "failed"]
    user: str | None
    metadata: Object | None
    learnable: bool = Field(description="Whether a trace was kept that can be replayed.")
    unlearnable_reason: str | None
    claimed: bool = Field(description="Whether an update has taken it.")
    shadow_of: str | None = Field(description="The response that nobody saw it beside.")
    session_id: SessionId | None
    turn: int | None
    reward: Reward | None


class Interactions(Page[Interaction]):
    """Answers, the newest first. A page may be short, even empty, and say that there is another."""


class PolicyOfAnswer(Shape):
    """The policy that answered."""

    id: CheckpointId
    version: int
    state: State


class PolicyMade(Shape):
    """The policy made of an answer."""

    version: int
    state: State


class Fate(Shape):
    """What became of an answer in learning."""

    outcome: Literal["claimed", "learned", "skipped"]
    reason: str | None
    divergence: float | None
    weight: float | None
    job_id: JobId
    policy: PolicyMade | None


class LatentStep(Shape):
    """The candidates of a latent step."""

    ids: list[int]
    weights: list[float]
    logprobs: list[float]


class PlacementShown(Shape):
    """Where latent steps sat."""

    name: str
    lead_in_ids: list[int]
    lead_out_ids: list[int]


class Trace(Shape):
    """What training sees of an answer."""

    policy_version: int
    stop_reason: str
    sampling: dict[str, Any]
    prompt_ids: list[int]
    placement: PlacementShown
    latents: list[LatentStep]
    latent_log_mass: list[float]
    token_ids: list[int]
    token_logprobs: list[float]
    token_log_mass: list[float]


class InteractionRead(Interaction):
    """An answer with its policy and what became of it."""

    policy: PolicyOfAnswer
    learning: Fate | None
    rollout: Trace | None = Field(None, description="With `include=rollout`; null where none is kept.")


class CurrentJob(Shape):
    """The update that is running."""

    id: str
    phase: str | None
    heartbeat_at: Time | None


class Point(Shape):
    """All that one version was asked of held-out prompts."""

    version: int
    correct: int
    total: int
    accuracy: float
    at: Time


class Overview(Shape):
    """The service at a glance."""

    serving_version: int | None
    previous_version: int | None
    interactions: int
    grades: dict[str, int] = Field(description="By kind of grader.")
    grading: dict[str, int] = Field(description="Answers by grading state.")
    jobs: dict[str, int] = Field(description="By status.")
    verdicts: dict[str, int]
    current_job: CurrentJob | None
    frozen: str | None = Field(description="Why no update begins.")
    pinned: str | None = Field(description="Why what serves may not change.")
    undecided: dict[str, str] = Field(description="Version -> state.")
    learned: int
    abandoned: int
    skipped: dict[str, int] = Field(description="Answers never learned from, by reason.")
    swaps: dict[str, int]
    history: list[Point]
