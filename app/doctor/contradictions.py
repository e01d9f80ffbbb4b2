"""Settings that are each possible and do not go together, variables that are no settings, packages that are missing.

What a single setting may be is refused where it is read (`app.settings`); this leaves that out.
"""

import difflib
import importlib.util
from collections.abc import Iterable, Iterator
from typing import Final

from app.doctor.finding import Finding
from app.settings import PREFIX, Settings, named

# Of the command line, of Compose (docker/.env.example), and of the README's commands.
OTHERS: Final = frozenset(
    {
        *("LEPO_URL", "LEPO_API_KEY", "LEPO_KEY", "LEPO_TAG", "LEPO_BIND", "LEPO_REPLICAS", "LEPO_API_PUBLISH"),
        *("LEPO_API_MEMORY", "LEPO_WORKER_MEMORY", "LEPO_POSTGRES_MEMORY", "LEPO_API_GPU", "LEPO_WORKER_GPU"),
        *("LEPO_API_CPUS", "LEPO_WORKER_CPUS", "LEPO_POSTGRES_CPUS", "LEPO_GRAFANA_PORT", "LEPO_STOP_GRACE"),
        *("LEPO_TLS", "LEPO_TLS_NAME", "LEPO_TLS_BIND", "LEPO_TLS_TO", "LEPO_PROXIES"),
    }
)
EXTRAS: Final = {  # module: the extra that brings it
    "peft": "lora",
    "mlflow": "mlflow",
    "tensorboard": "tensorboard",
    "opentelemetry.sdk": "otel",
}


def strangers(variables: Iterable[str]) -> Iterator[Finding]:
    """Name variables that look like settings and are none; names alone are asked for, never values."""
    known = named()
    for name in sorted(set(variables)):
        if not name.startswith(PREFIX) or name in OTHERS or name in known:
            continue
        close = difflib.get_close_matches(name, known, n=1)
        do = f"did you mean {close[0]}? see: lepo settings" if close else "unset it; the settings: lepo settings"
        yield Finding("settings", "warn", f"{name} is no setting, and is read by nobody", do)


def contradictions(settings: Settings) -> Iterator[Finding]:
    """Name what does not go together; nothing is given where all does."""
    for wrong, says, do in (*of_requests(settings), *of_learning(settings), *of_machines(settings)):
        if wrong:
            yield Finding("settings", "warn", says, do)
    for module in wanted(settings):
        if not installed(module):
            says = f"a setting needs the package {module.partition('.')[0]}, which is not installed"
            yield Finding("settings", "fail", says, f"pip install 'lepo-service[{EXTRAS[module]}]'")


def of_requests(settings: Settings) -> Iterator[tuple[bool, str, str]]:
    """Judge what a request without words of its own gets."""
    yield (
        settings.top_k > settings.max_top_k,
        f"a request that names no top_k asks for {settings.top_k}, and {settings.max_top_k} is the most",
        "lower LEPO_TOP_K, or raise LEPO_MAX_TOP_K",
    )
    yield (
        settings.max_completion_tokens >= settings.max_length,
        f"an answer may have {settings.max_completion_tokens} steps, and prompt and answer {settings.max_length}",
        "lower LEPO_MAX_COMPLETION_TOKENS, or raise LEPO_MAX_LENGTH",
    )
    yield (
        settings.latent_length >= settings.max_completion_tokens,
        f"{settings.latent_length} latent steps leave no room for tokens in {settings.max_completion_tokens} steps",
        "lower LEPO_LATENT_LENGTH, or raise LEPO_MAX_COMPLETION_TOKENS",
    )


def of_learning(settings: Settings) -> Iterator[tuple[bool, str, str]]:
    """Judge whether anything is learned, and served when it is."""
    yield (
        not settings.learn,
        "updates do not begin by themselves (LEPO_LEARN=false)",
        "set LEPO_LEARN=true, or begin each: lepo jobs start",
    )
    yield (
        settings.learn and settings.heldout is None and settings.gate_no_signal == "hold",
        "no LEPO_HELDOUT: unless prompts are uploaded, every new policy is held until somebody promotes it",
        "upload them (lepo data held-out upload FILE), set LEPO_HELDOUT, or promote: lepo policy promote VERSION",
    )
    yield (
        settings.learn and settings.heldout is None and settings.gate_no_signal == "promote",
        "no LEPO_HELDOUT: unless prompts are uploaded, new policies are promoted without being measured",
        "upload them (lepo data held-out upload FILE), or set LEPO_HELDOUT",
    )
    yield (
        settings.max_grades < settings.min_grades,
        f"an update waits for {settings.min_grades} grades and takes {settings.max_grades} at most",
        "raise LEPO_MAX_GRADES, or lower LEPO_MIN_GRADES",
    )
    yield (
        settings.resample == 1,
        "LEPO_RESAMPLE=1 draws nothing anew",
        "set it to 2 or more, or to 0",
    )
    yield (
        settings.gate_seconds > settings.phase_deadline,
        f"the gate may take {settings.gate_seconds:g} s, and a phase of an update {settings.phase_deadline:g} s",
        "lower LEPO_GATE_SECONDS, or raise LEPO_PHASE_DEADLINE",
    )
    yield (
        settings.redact is not None and not settings.redact_keep_rollouts,
        "an answer that was redacted is not learned from",
        "nothing, if that is meant; else LEPO_REDACT_KEEP_ROLLOUTS=true",
    )


def of_machines(settings: Settings) -> Iterator[tuple[bool, str, str]]:
    """Judge where it runs."""
    yield (
        settings.device == "cpu" and settings.dtype == "bfloat16",
        "bfloat16 on a CPU is slow where the CPU does not know it",
        "LEPO_DTYPE=float32, where the memory allows it",
    )
    yield (
        settings.host in {"0.0.0.0", "::"},  # noqa: S104 - looked at, not bound
        f"the server listens on every address ({settings.host}) and speaks plain HTTP",
        "put TLS in front of it, or set LEPO_HOST=127.0.0.1",
    )
    yield (
        "*" in settings.origins,
        "pages of every origin may ask from a browser (LEPO_CORS_ORIGINS=*)",
        "name the origins that should",
    )


def wanted(settings: Settings) -> list[str]:
    """Name the modules that these settings need beside what is always there."""
    needs = {
        "peft": settings.lora_rank > 0,
        "mlflow": settings.mlflow_uri is not None,
        "tensorboard": settings.tensorboard,
        "opentelemetry.sdk": settings.otel_endpoint is not None,
    }
    return [module for module, needed in needs.items() if needed]


def installed(module: str) -> bool:
    """Tell whether a module could be imported, without importing it."""
    package, _, _ = module.partition(".")
    return importlib.util.find_spec(package) is not None and importlib.util.find_spec(module) is not None
