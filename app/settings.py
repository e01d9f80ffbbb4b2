"""Every setting of the product, read once from the environment (prefix `LEPO_`).

The one reader of the environment. Nothing heavy is imported here, so `lepo --help` stays quick.
Leaves out what belongs to one request (see `app.api`) and what the hyperparameters mean (see `training.objective`).
"""

from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

SECRETS = Path("/run/secrets")
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


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
    control_pool: int = Field(4, ge=1, le=50, description="Connections for admin routes, policy polling and health.")

    # The model
    model: str = Field(
        "demo", description="'demo' (the committed model), a local Hugging Face directory, or a hub name."
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

    # The engine
    slots: int = Field(32, ge=1, le=4096, description="Answers decoded together.")
    max_length: int = Field(2048, ge=8, description="Prompt plus generated positions of one answer.")
    max_top_k: int = Field(
        64, ge=1, le=1024, description="Candidates kept per step; the largest `top_k` a request may ask."
    )
    prefill_chunk: int = Field(256, ge=8, description="Prompt positions computed between two decode steps.")
    prefix_cache_tokens: int = Field(
        65_536, ge=0, description="Prompt positions kept for reuse per policy version; 0 is off."
    )
    max_waiting: int = Field(256, ge=0, description="Choices that may wait for a slot; beyond it 429.")
    request_deadline: float = Field(600.0, gt=0, description="Seconds an answer may take, waiting included.")
    swap_mode: Literal["two_versions", "drain", "in_place"] = Field(
        "two_versions", description="How new weights take over."
    )
    attention: Literal["auto", "sdpa", "flash"] = Field(
        "auto", description="What decode steps attend by: 'flash' (flash-attn), 'sdpa', or 'auto' for what is there."
    )
    packing: Literal["auto", "off"] = Field(
        "auto",
        description="On a CPU in float32: linear layers packed for its kernels, quicker, for their memory once more "
        "per version; 'off' spares it.",
    )

    # Defaults of a request
    latent_length: int = Field(4, ge=0, description="Latent steps when a request does not say (`latent.length`).")
    latent_tau: float = Field(0.5, ge=1e-6, le=10, description="Gumbel-softmax temperature, likewise.")
    latent_draws: int = Field(1, ge=1, le=64, description="Gumbel-softmax samples whose mean a latent step is.")
    top_k: int = Field(30, ge=1, description="Candidates kept when a request does not say.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus kept when a request does not say.")
    temperature: float = Field(
        1.0, ge=0, le=2, description="Divides the logits when a request does not say; 0: greedy."
    )
    max_completion_tokens: int = Field(256, ge=1, description="Latent steps plus tokens when a request does not say.")

    # Learning
    learn: bool = Field(True, description="Whether the periodic task may start updates by itself.")
    learn_interval: float = Field(10.0, gt=0, description="Seconds between two looks for fresh grades.")
    min_grades: int = Field(64, ge=2, description="Fresh graded interactions that start an update.")
    max_grades: int = Field(512, ge=2, description="Most interactions one update claims.")
    group_grace: float = Field(
        30.0, ge=0, description="Seconds a group (the choices of one request) waits for its missing grades."
    )
    max_staleness: int = Field(
        2, ge=0, description="Policy versions between sampling and learning; older is skipped, counted."
    )
    key_share: Fraction = Field(
        0.5, description="Largest share of a batch from one API key, when more than one key has graded."
    )
    regroup: int = Field(
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
    max_grad_norm: float = Field(1.0, gt=0, description="The gradient is scaled down to this norm.")
    clip_low: Fraction = Field(0.2, description="Token ratios below 1 - this are clipped.")
    clip_high: float = Field(0.2, ge=0, description="Token ratios above 1 + this are clipped.")
    kl_beta: float = Field(0.0, ge=0, description="Weight of KL(policy || reference); reference: the first checkpoint.")
    negative_latent_floor: float = Field(
        -20.0, lt=0, description="Log-probability below which a negative latent term stops pushing."
    )
    latent_gradient: bool = Field(True, description="False: only token steps learn (an ablation).")
    normalization: Literal["grpo", "bnpo", "dr_grpo"] = Field(
        "grpo", description="What a step weighs: per rollout, per token of the batch, or by a fixed length."
    )
    lora_rank: int = Field(0, ge=0, description="Rank of adapters that learn instead of the weights; 0: none (peft).")
    lora_alpha: float = Field(32.0, gt=0, description="Scale of the adapters, as a multiple of 1 / rank.")
    micro_batch_tokens: int = Field(16_384, ge=64, description="Padded positions per forward of an update.")
    activation_checkpointing: bool = Field(
        False, description="Recompute layers in an update's backward pass: less memory, about a third more time."
    )

    # Gate and stops
    heldout: Path | None = Field(
        None, description="JSONL of prompts with graders, never trained on; unset: the gate sees nothing."
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
    tensorboard: bool = Field(False, description="Write each update's figures for TensorBoard, under var_dir.")
    mlflow_uri: str | None = Field(None, description="MLflow server that gets each update's figures; unset: none.")
    keep_checkpoints: int = Field(
        10, ge=2, description="Newest checkpoints kept on disk; serving, previous and first always stay."
    )

    # Grading
    grade_interval: float = Field(
        2.0, gt=0, description="Seconds between two looks for answers whose grader has not run."
    )
    grader_timeout: float = Field(5.0, gt=0, description="Seconds one grader may take.")
    grade_others: bool = Field(
        True, description="False: a key grades only what it asked itself; admin keys grade everything."
    )
    grade_apart: bool = Field(
        False, description="True: `lepo up` grades in a process of its own, so grades do not wait for updates."
    )

    # Secrets
    admin_key: SecretStr | None = Field(
        None, description="A fixed admin key (lepo-<id>-<secret>); unset: made and printed once."
    )

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

    """
    return Settings(_secrets_dir=SECRETS if SECRETS.is_dir() else None)
