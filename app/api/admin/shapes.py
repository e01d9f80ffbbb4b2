"""What the routes of operators send, as models. Leaves out policies (`policy_shapes`)."""

from typing import Literal

from pydantic import Field

from app.api.http.pages import Page
from app.api.http.shapes import AnswerId, CheckpointId, JobId, Object, SessionId, Shape, Time, identifier
from app.store.keys import Scope
from app.store.policy_life import State
from app.store.trust import Trust


class KeyLimits(Shape):
    """Null: as the settings say; 0: no bound."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    max_choices: int | None


class Key(Shape):
    """The public half of a key."""

    id: str
    object: Literal["key"]
    name: str
    project: str | None = Field(description="Null: an admin key of the service.")
    scopes: list[Scope]
    limits: KeyLimits
    trust: Trust
    trust_by: str | None
    trust_reason: str | None
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None
    trust_at: Time | None


class KeyMade(Key):
    """A key just made."""

    key: str = Field(description="Its text, shown this once.", examples=["lepo-ab12cd34ef-..."])


class Keys(Page[Key]):
    """Keys, the oldest first."""


class Agreement(Shape):
    """How a key's grades compare with trusted ones of the same answers."""

    key_id: str
    trust: Trust
    answers: int = Field(description="Graded by both.")
    difference: float = Field(description="Mean of |its grade - theirs|.")
    disagreeing: float = Field(description="Share of answers where that is more than half the range of rewards.")


class Agreements(Page[Agreement]):
    """Keys, those first that disagree most."""


class Job(Shape):
    """One update of the policy."""

    id: JobId
    object: Literal["job"]
    kind: Literal["update"]
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    trigger: Literal["schedule", "admin"]
    requested_by: str
    config: Object = Field(description="Settings that differ from the service's.")
    phase: str | None = Field(description="What it is doing.", examples=["update"])
    worker: str | None
    cancel_requested: bool
    base_checkpoint_id: CheckpointId | None
    result_checkpoint_id: CheckpointId | None
    verdict: str | None = Field(description="What came of it in a word.", examples=["promoted"])
    fault: Literal["data", "infrastructure", "operator", "policy"] | None
    error: str | None
    diagnosis: Object | None
    metrics: Object
    created_at: Time
    started_at: Time | None
    finished_at: Time | None
    heartbeat_at: Time | None
    phase_started_at: Time | None


class Jobs(Page[Job]):
    """Updates, the newest first."""


class JobEvent(Shape):
    """A line of a job's diary."""

    id: int = Field(description="Grows.")
    object: Literal["job.event"]
    kind: Literal["message", "metrics"]
    level: Literal["info", "warning", "error"]
    message: str
    data: Object | None
    created_at: Time


class JobEvents(Page[JobEvent]):
    """A diary, in order."""


class Switch(Shape):
    """Who switched something on, when and why."""

    at: Time
    by: str | None
    reason: str | None


class Learning(Shape):
    """Whether the service learns, and if not, why not."""

    object: Literal["learning"]
    running: bool = Field(description="Whether an update runs.")
    waiting_for: str | None = Field(description="Why no update begins now; null: one can, or runs.")
    answers_waiting: int
    frozen: Switch | None
    pinned: Switch | None
    refusals: int = Field(description="Candidates refused since the last one that passed.")
    rate_scale: float
    batch_scale: float


class LearningChanged(Learning):
    """What is so now."""

    changed: bool = Field(description="False where it was so already.")


class ProjectLimits(Shape):
    """Null: as the settings say; 0: no bound."""

    requests_per_minute: int | None
    tokens_per_minute: int | None
    stored_bytes: int | None
    grading_seconds: float | None


class ProjectUsage(Shape):
    """What a project uses."""

    stored_bytes: int
    grading_seconds_today: float


class Project(Shape):
    """A project: it owns keys, answers and sessions."""

    id: str
    object: Literal["project"]
    limits: ProjectLimits
    usage: ProjectUsage
    created_at: Time


class Projects(Page[Project]):
    """Projects, by name."""


class AuditEntry(Shape):
    """What an operator did."""

    id: str = identifier("audit")
    object: Literal["audit.entry"]
    actor: str = Field(description="A key's id, or `login:` and a name.")
    project: str | None
    action: str = Field(examples=["POST /v1/admin/jobs"])
    target: str | None
    outcome: str | None = Field(description="The status; null while it goes on, or where a crash cut it off.")
    request_id: str | None
    created_at: Time


class AuditEntries(Page[AuditEntry]):
    """What operators did, the newest first."""


class HeldOutSet(Shape):
    """Held-out prompts that were uploaded."""

    object: Literal["held_out"]
    version: int = Field(description="From 1; never reused.")
    digest: str = Field(description="SHA-256 of the lines.")
    prompts: int = Field(description="As many as were uploaded; LEPO_HELDOUT_SIZE of them are read.")
    bytes: int
    active: bool = Field(description="Whether the gate asks this one.")
    created_by: str = Field(description="A key's id.")
    created_at: Time
    activated_by: str | None = Field(description="A key's id; null: it never was asked.")
    activated_at: Time | None


class HeldOutSets(Page[HeldOutSet]):
    """Held-out sets, the newest first."""


class HeldOutSetWhole(HeldOutSet):
    """A held-out set with its lines."""

    asked: int = Field(description="Prompts that the gate asks.")
    sealed: int = Field(description="Prompts that it never asks, kept for figures one quotes (LEPO_HELDOUT_SEALED).")
    lines: str = Field(description="JSONL, as it was uploaded.")


class HeldOutActive(Shape):
    """Which held-out set the gate asks now."""

    object: Literal["held_out.active"]
    version: int = Field(description="0: none; it asks what LEPO_HELDOUT names.")
    changed: bool = Field(description="False where it was so already.")


class PolicyWithin(Shape):
    """A policy made from what is removed."""

    version: int
    state: State
    answers: int


class Erasure(Shape):
    """What came of a wish to have something removed."""

    id: str = identifier("erase")
    object: Literal["erasure"]
    subject: str = Field(description="What was named.")
    finished: bool = Field(description="False: ask again.")
    removed: dict[str, int] = Field(description="Table -> rows.")
    policies: list[PolicyWithin] = Field(description="Weights cannot forget, but they can be replaced.")
    created_at: Time


class ExportedGrade(Shape):
    """An entry of an exported answer's ledger."""

    id: str = identifier("grade")
    state: str
    value: float | None
    kind: str
    grader: str
    version: str | None
    comment: str | None
    correction: str | None
    credit: float | None
    key: str | None
    created_at: Time


class ExportedLearning(Shape):
    """What became of an exported answer."""

    job_id: JobId
    outcome: Literal["claimed", "learned", "skipped"]
    reason: str | None
    divergence: float | None
    weight: float | None


class ExportedRollout(Shape):
    """A trace."""

    codec: int
    payload: str = Field(description="Base64; read it with `training.codec`.")


class ExportedAnswer(Shape):
    """One line of an export."""

    id: AnswerId
    created_at: Time
    completion_id: str
    choice: int
    group_size: int
    endpoint: str
    model: str
    checkpoint_id: CheckpointId
    policy_version: int
    key: str | None
    project: str
    user: str | None
    metadata: Object | None
    request: Object
    prompt: str
    answer: str
    finish_reason: str
    usage: Object
    grader: Object | None
    grading_state: str
    learnable: bool
    unlearnable_reason: str | None
    session_id: SessionId | None
    turn: int | None
    reward: float | None
    grades: list[ExportedGrade]
    learning: ExportedLearning | None
    rollout: ExportedRollout | None = Field(None, description="With `rollouts`; null where none is kept.")
