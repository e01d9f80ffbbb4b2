"""The schema on one page: every table but those of what was removed (`removed`) and of who shares it (`tenants`).

Sessions, the console and held-out sets have pages of their own (`session_tables`, `console_tables`, `held_out_tables`).
Leaves out queries (one file per domain beside this one), the view `effective_grades` (`app.store.grades`) and how the
schema came about (`migrations`). Facts are appended; the few columns that change say so.
"""

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column, relationship

import app.store.console_tables
import app.store.held_out_tables
import app.store.removed
import app.store.session_tables
import app.store.tenants  # noqa: F401 - the tables of all five belong to the schema
from app.store import traces
from app.store.base import AnyJson, AnyText, Base, Big, Created, Id, Json, one_of

SCOPES: Final = ("infer", "grade", "admin")
TRUSTS: Final = ("ordinary", "trusted", "quarantined")
ENDPOINTS: Final = ("chat", "completion", "response")
FINISHES: Final = ("stop", "length", "cancelled", "deadline")
GRADING_STATES: Final = ("none", "pending", "graded", "failed")
GRADE_STATES: Final = ("graded", "corrected", "failed", "retracted")
GRADER_SOURCES: Final = ("scoped", "request")
GRADE_SOURCES: Final = ("caller", *GRADER_SOURCES)
GRADING_UNTRIED: Final = text("grading_state = 'pending' AND grading_attempts = 0")
GRADING_DUE: Final = text("grading_state = 'pending' AND grading_attempts > 0")
JOB_STATES: Final = ("queued", "running", "succeeded", "failed", "cancelled")
FAULTS: Final = ("data", "infrastructure", "operator", "policy")
CLAIM_OUTCOMES: Final = ("claimed", "learned", "skipped")
POLICY_STATES: Final = ("candidate", "held", "refused", "shadow", "canary", "serving", "retired", "rolled_back")


class ApiKey(Base):
    """A key's public half; the secret itself is shown once and only its SHA-256 is kept."""

    __tablename__ = "api_keys"
    __table_args__ = (
        CheckConstraint("scopes <@ ARRAY['infer', 'grade', 'admin']::text[]", name="scopes_known"),
        one_of("trust", TRUSTS),
        CheckConstraint("project_id IS NOT NULL OR 'admin' = ANY (scopes)", name="of_a_project"),
        CheckConstraint(
            "requests_per_minute >= 0 AND tokens_per_minute >= 0 AND max_choices >= 0", name="limits_possible"
        ),
        Index("ix_api_keys_project_id", "project_id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)  # the short middle part of lepo-<id>-<secret>
    name: Mapped[str]
    secret_sha256: Mapped[bytes]  # 32 bytes
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[Created]
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    trust: Mapped[str] = mapped_column(server_default="ordinary")  # what its grades count for: `app.store.trust`
    trust_at: Mapped[datetime | None]  # when that was last changed, by whom and why
    trust_by: Mapped[str | None]
    trust_reason: Mapped[str | None]
    # null: an admin key of the whole service; what it asks belongs to the default project
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id"), server_default="default")
    requests_per_minute: Mapped[Big | None]  # null: as LEPO_REQUESTS_PER_MINUTE; 0: no bound; so the next two
    tokens_per_minute: Mapped[Big | None]
    max_choices: Mapped[int | None]  # largest `n`; null: LEPO_MAX_CHOICES alone


class Secret(Base):
    """A secret made once and shared by every process, such as the one that signs grading tokens."""

    __tablename__ = "secrets"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[bytes]
    created_at: Mapped[Created]


class Checkpoint(Base):
    """One set of weights on disk: a policy. Only its state and what became of its files change."""

    __tablename__ = "checkpoints"
    __table_args__ = (
        one_of("state", POLICY_STATES),
        *(
            Index(f"uq_checkpoints_one_{state}", "state", unique=True, postgresql_where=text(f"state = '{state}'"))
            for state in ("serving", "shadow", "canary")
        ),
        Index("ix_checkpoints_parent_id", "parent_id"),
        Index("ix_checkpoints_job_id", "job_id"),
    )

    id: Mapped[Id]
    version: Mapped[Big] = mapped_column(unique=True)  # 0 is the base model; never reused
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("checkpoints.id"))
    path: Mapped[str]  # directory in the Hugging Face layout
    digest: Mapped[str]  # SHA-256 fingerprint of the parameters, hexadecimal
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id", use_alter=True))
    state: Mapped[str]  # where it is in the life of a policy (`app.store.policy_life`)
    metrics: Mapped[Json] = mapped_column(default=dict)
    files_deleted_at: Mapped[datetime | None]  # when its directory was removed; null while it is there
    created_at: Mapped[Created]


class Transition(Base):
    """One move in the life of a policy: from which state to which, by what event, who caused it and on what figures."""

    __tablename__ = "transitions"
    __table_args__ = (
        one_of("to_state", POLICY_STATES),
        Index("ix_transitions_checkpoint_id", "checkpoint_id", "entry"),
        Index("ix_transitions_to_state", "to_state", "entry"),
        Index("ix_transitions_job_id", "job_id"),
    )

    id: Mapped[Id]
    entry: Mapped[Big] = mapped_column(Identity(always=True), unique=True)  # order of writing; ids follow clocks
    checkpoint_id: Mapped[UUID] = mapped_column(ForeignKey("checkpoints.id"))
    from_state: Mapped[str | None]  # null: its first state
    to_state: Mapped[str]
    event: Mapped[str]
    replaced_id: Mapped[UUID | None] = mapped_column(ForeignKey("checkpoints.id"))  # what served until this one did
    actor: Mapped[str]  # a key's id, a login's name, or the name of a part of this product
    reason: Mapped[str]
    figures: Mapped[Json] = mapped_column(default=dict)  # what the decision rests on
    job_id: Mapped[UUID | None] = mapped_column(ForeignKey("jobs.id"))
    created_at: Mapped[Created]


class Learning(Base):
    """Whether and how boldly the service learns now: one row, changed by operators and by refusals."""

    __tablename__ = "learning"
    __table_args__ = (
        CheckConstraint("id = 1", name="one_row"),
        CheckConstraint("rate_scale > 0 AND rate_scale <= 1", name="rate_scale_in_range"),
        CheckConstraint("batch_scale > 0 AND batch_scale <= 1", name="batch_scale_in_range"),
        CheckConstraint("refusals >= 0", name="refusals_counted"),
    )

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    frozen_at: Mapped[datetime | None]  # null: learning goes on
    frozen_by: Mapped[str | None]
    frozen_reason: Mapped[str | None]
    pinned_at: Mapped[datetime | None]  # null: what serves may change
    pinned_by: Mapped[str | None]
    pinned_reason: Mapped[str | None]
    refusals: Mapped[int] = mapped_column(server_default=text("0"))  # candidates refused since the last one that passed
    rate_scale: Mapped[float] = mapped_column(server_default=text("1"))  # factor on the learning rate, in (0, 1]
    batch_scale: Mapped[float] = mapped_column(server_default=text("1"))  # factor on the size of a batch, in (0, 1]
    updated_at: Mapped[Created]


class StoredRequest(Base):
    """What one HTTP request asked, once for all of its answers; it goes with the last of them."""

    __tablename__ = "requests"

    id: Mapped[Id]
    body: Mapped[Json]  # messages or prompt, and the sampling settings as asked
    prompts: Mapped[list[str]] = mapped_column(ARRAY(AnyText))  # as the model saw them, after the chat template
    grader: Mapped[Json | None]  # the grader it named, or null
    # `metadata` is taken by SQLAlchemy
    client_metadata: Mapped[Json | None] = mapped_column("metadata")
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), server_default="default")  # of its key
    created_at: Mapped[Created]


class Interaction(Base):
    """One answer (one choice of a response); what was asked for it is `asked`.

    A fact, but for nine columns: `grading_state`, `grading_attempts` and `grading_until` follow the server-side
    grader; `graded_at`, `reward`, `credited`, `charged_key_id` and `claimed` repeat what `grades` and `claims` say so
    that an index can hold only what is still to be learned from; `refusals` counts the updates with it that were
    refused.
    """

    __tablename__ = "interactions"
    __table_args__ = (
        UniqueConstraint("completion_id", "choice"),
        one_of("endpoint", ENDPOINTS),
        one_of("finish_reason", FINISHES),
        one_of("grading_state", GRADING_STATES),
        one_of("grader_source", GRADER_SOURCES),
        CheckConstraint("choice >= 0 AND choice < group_size", name="choice_in_group"),
        CheckConstraint("learnable = (unlearnable_reason IS NULL)", name="unlearnable_says_why"),
        CheckConstraint("(session_id IS NULL) = (turn IS NULL)", name="turn_of_session"),
        Index("ix_interactions_session", "session_id", "turn", postgresql_where=text("session_id IS NOT NULL")),
        Index(
            "ix_interactions_fresh",
            "charged_key_id",
            text("policy_version DESC"),
            text("graded_at DESC"),
            postgresql_where=text("graded_at IS NOT NULL AND learnable AND NOT claimed"),
        ),
        Index(
            "ix_interactions_fresh_reward",
            "reward",
            postgresql_where=text("graded_at IS NOT NULL AND learnable AND NOT claimed"),
        ),
        Index("ix_interactions_ungraded", "created_at", postgresql_where=text("graded_at IS NULL AND NOT claimed")),
        Index("ix_interactions_user_tag", "user_tag", "id", postgresql_where=text("user_tag IS NOT NULL")),
        Index("ix_interactions_policy_version", "policy_version", "id"),
        Index("ix_interactions_request_id", "request_id"),
        Index("ix_interactions_shadow", "id", postgresql_where=text("shadow_of IS NOT NULL")),
        Index("ix_interactions_graded", "checkpoint_id", "graded_at", postgresql_where=text("graded_at IS NOT NULL")),
        Index("ix_interactions_grading_untried", "created_at", postgresql_where=GRADING_UNTRIED),
        Index("ix_interactions_grading_due", "grading_until", postgresql_where=GRADING_DUE),
        Index("ix_interactions_created_at", "created_at"),
        Index("ix_interactions_api_key_id", "api_key_id", "id"),
        Index("ix_interactions_project_id", "project_id", "id"),
    )

    id: Mapped[Id]
    completion_id: Mapped[str]  # the response's id, chatcmpl-... or cmpl-...
    choice: Mapped[int]  # 0 .. group_size - 1
    group_size: Mapped[int]  # `n` of the request
    endpoint: Mapped[str]
    model: Mapped[str]  # as the client named it
    checkpoint_id: Mapped[UUID] = mapped_column(ForeignKey("checkpoints.id"))
    policy_version: Mapped[Big]  # of that checkpoint
    api_key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"), server_default="default")  # of that key
    request_id: Mapped[UUID] = mapped_column(ForeignKey("requests.id"))
    prompt_index: Mapped[int] = mapped_column(server_default=text("0"))  # which of the request's prompts, from 0
    prompt_tokens: Mapped[int]
    answer: Mapped[str]
    finish_reason: Mapped[str]
    usage: Mapped[Json]  # prompt_tokens, completion_tokens, reasoning_tokens
    grading_state: Mapped[str] = mapped_column(server_default="none")
    grading_attempts: Mapped[int] = mapped_column(server_default="0")  # rises when a worker takes it; its fence
    grading_until: Mapped[datetime | None]  # the end of a lease, or of a pause after a failure; null: never taken
    grader_source: Mapped[str] = mapped_column(server_default="scoped")  # scoped: the key that named it may grade
    user_tag: Mapped[str | None]  # `user` of the request
    learnable: Mapped[bool]  # whether a rollout was kept that can be replayed
    unlearnable_reason: Mapped[str | None]
    graded_at: Mapped[datetime | None]  # when it first had an effective grade; null while it has none
    reward: Mapped[float | None]  # what its grades come to (`effective_grades`); null while it has none
    charged_key_id: Mapped[str] = mapped_column(server_default=text("''"))  # key its grades count for; '' if none
    claimed: Mapped[bool] = mapped_column(server_default=text("false"))  # whether `claims` has a row for it
    refusals: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))  # updates with it that were refused
    shadow_of: Mapped[str | None]  # null: it was shown; else the response that nobody saw it beside
    session_id: Mapped[UUID | None] = mapped_column(ForeignKey("sessions.id"))
    turn: Mapped[int | None]  # its turn in the session, from 1, by order of commit; choices of a response share it
    follows_id: Mapped[UUID | None]  # the answer its prompt goes on from, token for token; may be gone: no foreign key
    credited: Mapped[bool] = mapped_column(server_default=text("false"))  # whether a grade of its session counts for it
    created_at: Mapped[Created]

    asked: Mapped[StoredRequest] = relationship(lazy="selectin")  # read once for all rows that share it

    @property
    def request(self) -> Json:
        """The body of the request."""
        return self.asked.body

    @property
    def prompt_text(self) -> str:
        """The prompt as the model saw it."""
        return self.asked.prompts[self.prompt_index]

    @property
    def grader(self) -> Json | None:
        """The grader that the request named."""
        return self.asked.grader

    @property
    def client_metadata(self) -> Json | None:
        """The request's metadata."""
        return self.asked.client_metadata


class StoredRollout(Base):
    """An answer's lossless trace, apart from `interactions` so that listings stay light and it may go first."""

    __tablename__ = "rollouts"
    __table_args__ = (
        CheckConstraint("(payload IS NULL) = (address IS NOT NULL)", name="kept_in_one_place"),
        CheckConstraint("(address IS NULL) = (sha256 IS NULL)", name="address_has_digest"),
        Index("ix_rollouts_unlearnable", "created_at", postgresql_where=text("NOT learnable")),
    )

    interaction_id: Mapped[UUID] = mapped_column(ForeignKey("interactions.id", ondelete="CASCADE"), primary_key=True)
    codec: Mapped[int] = mapped_column(SmallInteger)  # version of the byte codec
    inline: Mapped[bytes | None] = mapped_column("payload")  # null: the bytes are at `address`
    address: Mapped[str | None]  # of a file (`app.store.traces`), file:///...; null: they are here
    sha256: Mapped[bytes | None]  # of the bytes at `address`
    file_bytes: Mapped[Big | None]  # how many those are; null: not known, or they are here
    learnable: Mapped[bool] = mapped_column(server_default=text("true"))  # as its answer says
    created_at: Mapped[Created]

    @property
    def payload(self) -> bytes:
        """The bytes, wherever they are.

        Raises:
            TraceLost: they are not at their address, or are others.

        """
        if self.address is None:
            return self.inline or b""
        return traces.read(self.address, self.sha256)

    @payload.setter
    def payload(self, given: bytes) -> None:
        self.inline = given


class Grade(Base):
    """One entry of the ledger. Never edited: a later entry of the same grader supersedes an earlier one."""

    __tablename__ = "grades"
    __table_args__ = (
        one_of("state", GRADE_STATES),
        one_of("source", GRADE_SOURCES),
        CheckConstraint("(state = 'graded') = (value IS NOT NULL)", name="value_iff_graded"),
        CheckConstraint("state <> 'corrected' OR correction IS NOT NULL", name="corrected_says_how"),
        CheckConstraint("value NOT IN ('NaN', 'Infinity', '-Infinity')", name="value_finite"),
        CheckConstraint("(session_grade_id IS NULL) = (credit IS NULL)", name="credit_of_session"),
        Index("ix_grades_session_grade_id", "session_grade_id", postgresql_where=text("session_grade_id IS NOT NULL")),
        Index("ix_grades_ledger", "interaction_id", "grader_kind", "grader_id", "entry"),
        Index("ix_grades_api_key_id", "api_key_id", "interaction_id", postgresql_where=text("api_key_id IS NOT NULL")),
        Index("ix_grades_corrected", "entry", postgresql_where=text("correction IS NOT NULL")),
        Index("ix_grades_supersedes_id", "supersedes_id", postgresql_where=text("supersedes_id IS NOT NULL")),
    )

    id: Mapped[Id]
    entry: Mapped[Big] = mapped_column(Identity(always=True), unique=True)  # order of writing within an interaction
    interaction_id: Mapped[UUID] = mapped_column(ForeignKey("interactions.id", ondelete="CASCADE"))
    state: Mapped[str]
    value: Mapped[float | None]  # any finite number, as given; null unless graded
    grader_kind: Mapped[str]  # client, user, string_check, math, multi, ...
    grader_id: Mapped[str]  # who: a key's id, a user's tag, a grader's name
    grader_version: Mapped[str | None]
    # caller: it came with a key; scoped, request: this server ran the grader that a key with or without `grade` named
    source: Mapped[str] = mapped_column(server_default="caller")
    counts: Mapped[bool] = mapped_column(server_default=text("true"))  # whether it makes rewards, as set when written
    comment: Mapped[str | None]
    correction: Mapped[str | None]  # what the answer should have been
    supersedes_id: Mapped[UUID | None] = mapped_column(ForeignKey("grades.id"))
    api_key_id: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))  # null: graded by this server
    session_grade_id: Mapped[UUID | None] = mapped_column(ForeignKey("session_grades.id"))  # what it follows from
    credit: Mapped[float | None]  # this turn's share of that grade, in (0, 1]; null: a grade of the answer itself
    created_at: Mapped[Created]


class IdempotencyKey(Base):
    """What was answered under an `Idempotency-Key`, per caller."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (
        one_of("state", ("running", "done")),
        Index("ix_idempotency_keys_created_at", "created_at"),
        Index("ix_idempotency_keys_interaction", text("(response ->> 'interaction_id')")),
        Index("ix_idempotency_keys_session", text("(response ->> 'session_id')")),
    )

    owner: Mapped[str] = mapped_column(primary_key=True)  # a key's id, or what stands in for it (a grading token)
    key: Mapped[str] = mapped_column(primary_key=True)
    route: Mapped[str]
    body_sha256: Mapped[bytes]
    state: Mapped[str]
    attempt: Mapped[int]  # rises when a caller takes over from one that died
    began_at: Mapped[Created]
    status: Mapped[int | None]
    response: Mapped[Any] = mapped_column(AnyJson, nullable=True)  # any JSON value; null while running
    created_at: Mapped[Created]


class Job(Base):
    """One update of the policy, from request to verdict. Its row is the truth; the Celery message is a hint."""

    __tablename__ = "jobs"
    __table_args__ = (
        one_of("kind", ("update",)),
        one_of("status", JOB_STATES),
        one_of("trigger", ("schedule", "admin")),
        one_of("fault", FAULTS),
        CheckConstraint("(status IN ('queued', 'running')) = (finished_at IS NULL)", name="finished_iff_over"),
        Index("uq_jobs_one_running", "status", unique=True, postgresql_where=text("status = 'running'")),
        Index("ix_jobs_finished_at", "finished_at"),
        Index("ix_jobs_queued", "created_at", postgresql_where=text("status = 'queued'")),
    )

    id: Mapped[Id]
    kind: Mapped[str] = mapped_column(server_default="update")
    status: Mapped[str] = mapped_column(server_default="queued")
    trigger: Mapped[str]
    requested_by: Mapped[str]  # a key's id, or `beat`
    config: Mapped[Json]  # settings that differ from the service's
    phase: Mapped[str | None]  # claim, batch, update, gate, publish, ...
    phase_started_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    lease_until: Mapped[datetime | None]  # by the database's clock; afterwards another worker may end the job
    fence: Mapped[Big | None]  # from the sequence job_fences; whoever holds it may write
    worker: Mapped[str | None]
    cancel_requested: Mapped[bool] = mapped_column(server_default=text("false"))
    base_checkpoint_id: Mapped[UUID | None] = mapped_column(ForeignKey("checkpoints.id"))
    result_checkpoint_id: Mapped[UUID | None] = mapped_column(ForeignKey("checkpoints.id"))
    verdict: Mapped[str | None]  # what came of it in a word: promoted, refused, nothing_to_learn, ...
    fault: Mapped[str | None]  # whose fault a bad end was
    error: Mapped[str | None]
    diagnosis: Mapped[Json | None]
    metrics: Mapped[Json] = mapped_column(default=dict)
    created_at: Mapped[Created]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class JobEvent(Base):
    """A line of a job's diary: a message, or metrics of a step."""

    __tablename__ = "job_events"
    __table_args__ = (
        one_of("kind", ("message", "metrics")),
        one_of("level", ("info", "warning", "error")),
        Index("ix_job_events_job", "job_id", "id"),
        Index("ix_job_events_created_at", "created_at"),
    )

    id: Mapped[Big] = mapped_column(Identity(always=True), primary_key=True)
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    kind: Mapped[str]
    level: Mapped[str]
    message: Mapped[str]
    data: Mapped[Json | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Claim(Base):
    """A job's hold on an interaction. The primary key is the proof that nothing is learned from twice.

    `claimed` lasts while the job runs and while the policy it made waits for a decision; see `app.store.claims`. The
    row outlives its interaction: what a policy was made from stays countable (`Tombstone` has the facts).
    """

    __tablename__ = "claims"
    __table_args__ = (
        one_of("outcome", CLAIM_OUTCOMES),
        CheckConstraint("(outcome = 'skipped') = (reason IS NOT NULL)", name="skipped_says_why"),
        Index("ix_claims_job", "job_id", "outcome"),
        Index(
            "ix_claims_with_rollout",
            "created_at",
            postgresql_where=text("outcome <> 'claimed' AND NOT rollout_removed"),
        ),
    )

    interaction_id: Mapped[UUID] = mapped_column(primary_key=True)  # no foreign key: the interaction may go first
    job_id: Mapped[UUID] = mapped_column(ForeignKey("jobs.id"))
    outcome: Mapped[str]
    reason: Mapped[str | None]
    divergence: Mapped[float | None]  # nats per step, from the policy that answered to the one that was to learn
    weight: Mapped[float | None]  # mean importance weight of its steps; 1 on policy
    rollout_removed: Mapped[bool] = mapped_column(server_default=text("false"))  # its rollout's time was over
    created_at: Mapped[Created]


class Tally(Base):
    """How many rows there are of a kind: kept by triggers on the tables that are counted, read by `app.store.tallies`.

    Each database session adds to rows of its own, so that no transaction waits for another's count.
    """

    __tablename__ = "tallies"

    what: Mapped[str] = mapped_column(primary_key=True)  # answers, grading, grades, learned, skipped
    name: Mapped[str] = mapped_column(primary_key=True)  # of the kind within it: a state, a grader, a job, a reason
    backend: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)  # whose; 0: of sessions that ended
    count: Mapped[Big]  # to be added up; a single one may be below 0


class Evaluation(Base):
    """How many held-out prompts a checkpoint answered right."""

    __tablename__ = "evaluations"
    __table_args__ = (
        one_of("kind", ("gate", "heldout", "base")),
        CheckConstraint("correct >= 0 AND correct <= total AND total > 0", name="counts_possible"),
        Index("ix_evaluations_checkpoint", "checkpoint_id", "kind"),
        Index("ix_evaluations_detailed", "created_at", postgresql_where=text("detail IS NOT NULL")),
    )

    id: Mapped[Id]
    checkpoint_id: Mapped[UUID] = mapped_column(ForeignKey("checkpoints.id"))
    kind: Mapped[str]
    correct: Mapped[int]
    total: Mapped[int]
    accuracy: Mapped[float]  # correct / total
    detail: Mapped[Json | None]
    created_at: Mapped[Created]


class Swap(Base):
    """One attempt of one server process to take new weights into service."""

    __tablename__ = "swaps"
    __table_args__ = (one_of("status", ("served", "failed")), Index("ix_swaps_created_at", "created_at"))

    id: Mapped[Id]
    replica: Mapped[str]  # host:pid, or what the operator named it
    from_version: Mapped[Big | None]  # null: the first weights of this process
    to_version: Mapped[Big]
    status: Mapped[str]
    staged_ms: Mapped[float | None]  # reading and verifying beside the serving weights
    pause_ms: Mapped[float | None]  # between the last step on the old and the first on the new
    pause_steps: Mapped[float | None]  # the same, in steps of that moment
    fingerprint: Mapped[str | None]  # of the parameters in memory
    error: Mapped[str | None]
    created_at: Mapped[Created]


class TrackerValue(Base):
    """A prompt's running success rate: Beta(alpha, beta) counts that fade. Changes with every update."""

    __tablename__ = "tracker_values"
    __table_args__ = (Index("ix_tracker_values_updated_at", "updated_at"),)

    key: Mapped[str] = mapped_column(primary_key=True)  # digest of the prompt
    alpha: Mapped[float]
    beta: Mapped[float]
    policy_version: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[Created]
