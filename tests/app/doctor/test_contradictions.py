"""Settings that do not go together are each named, with what to do."""

from pathlib import Path
from typing import Any

import pytest

from app.doctor.contradictions import OTHERS, contradictions, strangers
from app.settings import Settings

GOOD: dict[str, Any] = {"heldout": Path("heldout.jsonl"), "host": "127.0.0.1"}


def test_defaults_with_held_out_prompts_go_together() -> None:
    assert list(contradictions(Settings(**GOOD))) == []


@pytest.mark.parametrize(
    ("changes", "says", "do"),
    [
        ({"top_k": 65}, "asks for 65, and 64 is the most", "LEPO_MAX_TOP_K"),
        ({"max_completion_tokens": 2048}, "may have 2048 steps", "LEPO_MAX_LENGTH"),
        ({"latent_length": 256}, "no room for tokens", "LEPO_LATENT_LENGTH"),
        ({"learn": False}, "do not begin by themselves", "lepo jobs start"),
        ({"heldout": None}, "is held until somebody promotes it", "LEPO_HELDOUT"),
        ({"heldout": None, "gate_no_signal": "promote"}, "without being measured", "LEPO_HELDOUT"),
        ({"max_grades": 32}, "waits for 64 grades and takes 32", "LEPO_MAX_GRADES"),
        ({"resample": 1}, "draws nothing anew", "2 or more"),
        ({"gate_seconds": 700}, "the gate may take 700 s", "LEPO_PHASE_DEADLINE"),
        ({"redact": "a:b"}, "is not learned from", "LEPO_REDACT_KEEP_ROLLOUTS"),
        ({"device": "cpu", "dtype": "bfloat16"}, "slow", "float32"),
        ({"host": "0.0.0.0"}, "plain HTTP", "TLS"),
        ({"cors_origins": "*"}, "every origin", "name the origins"),
    ],
    ids=str,
)
def test_each_contradiction_is_named(changes: dict[str, Any], says: str, do: str) -> None:
    [found] = contradictions(Settings(**{**GOOD, **changes}))
    assert (found.check, found.state) == ("settings", "warn")
    assert says in found.says
    assert found.do is not None
    assert do in found.do


@pytest.mark.parametrize(
    ("changes", "module", "extra"),
    [
        ({"lora_rank": 8}, "peft", "lora"),
        ({"mlflow_uri": "http://x"}, "mlflow", "mlflow"),
        ({"tensorboard": True}, "tensorboard", "tensorboard"),
        ({"otel_endpoint": "http://x"}, "opentelemetry.sdk", "otel"),
    ],
    ids=str,
)
def test_a_missing_package_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], module: str, extra: str
) -> None:
    monkeypatch.setattr("app.doctor.contradictions.installed", lambda name: name != module)
    [found] = contradictions(Settings(**{**GOOD, **changes}))
    assert (found.state, found.do) == ("fail", f"pip install 'lepo-service[{extra}]'")
    monkeypatch.undo()
    assert list(contradictions(Settings(**{**GOOD, "lora_rank": 8}))) == [], "the tests have peft"


def test_variables_that_are_no_settings_are_named() -> None:
    found = list(strangers({"LEPO_DATABSE_URL", "LEPO_PORT", "PATH", "LEPO_QQQQQQ", *OTHERS}))
    assert [one.says.split()[0] for one in found] == ["LEPO_DATABSE_URL", "LEPO_QQQQQQ"]
    assert found[0].do == "did you mean LEPO_DATABASE_URL? see: lepo settings"
