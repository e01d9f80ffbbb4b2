"""Settings: one reader, every one described, secrets joined and never shown."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from app.commands.settings import command, page
from app.settings import Settings, read_settings

DOCS = Path(__file__).parents[2] / "docs"


def test_every_setting_is_described_and_the_page_is_current() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, f"{name} says what it does"
    assert (DOCS / "settings.md").read_text() == page(), "run: lepo settings --markdown > docs/settings.md"


def test_a_password_joins_an_address_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPO_DATABASE_URL", "postgresql+psycopg://lepo@db:5432/lepo")
    monkeypatch.setenv("LEPO_DATABASE_PASSWORD", "a b/c@d")
    assert read_settings().database_url == "postgresql+psycopg://lepo:a%20b%2Fc%40d@db:5432/lepo"
    monkeypatch.setenv("LEPO_DATABASE_URL", "postgresql+psycopg://lepo:other@db/lepo")
    assert read_settings().database_url == "postgresql+psycopg://lepo:other@db/lepo"


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPO_HELDOUT", "")
    assert read_settings().heldout is None


def test_out_of_range_names_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPO_LATENT_TAU", "0")
    with pytest.raises(ValidationError, match="latent_tau"):
        read_settings()


def test_the_address_of_a_kubernetes_service_is_no_setting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What a pod finds in its environment beside a Service called `lepo`, and one called `lepo-model`."""
    for name, value in {
        "LEPO_SERVICE_HOST": "10.0.0.7",
        "LEPO_SERVICE_PORT": "8000",
        "LEPO_PORT": "tcp://10.0.0.7:8000",
        "LEPO_PORT_8000_TCP": "tcp://10.0.0.7:8000",
        "LEPO_MODEL_PORT": "tcp://[fd00::7]:80",
        "LEPO_REDIS_URL": "udp://10.0.0.9:6379",
        "LEPO_DATABASE_URL": "postgresql+psycopg://lepo@10.0.0.8:5432/lepo",
    }.items():
        monkeypatch.setenv(name, value)
    settings = read_settings()
    assert (settings.port, settings.redis_url) == (8000, None)
    assert settings.database_url == "postgresql+psycopg://lepo@10.0.0.8:5432/lepo", "an address that was meant"
    [warning] = caplog.messages
    assert "LEPO_PORT=tcp://10.0.0.7:8000" in warning
    assert "LEPO_REDIS_URL" in warning
    assert "LEPO_DATABASE_URL" not in warning


def test_an_environment_without_service_links_warns_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    read_settings()
    assert caplog.messages == []


def test_the_command_shows_what_is_in_force_and_hides_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPO_SLOTS", "7")
    monkeypatch.setenv("LEPO_ADMIN_KEY", "lepo-abc-topsecret")
    monkeypatch.setenv("LEPO_DATABASE_URL", "postgresql+psycopg://lepo@db/lepo")
    monkeypatch.setenv("LEPO_DATABASE_PASSWORD", "topsecret")
    said = CliRunner().invoke(command, catch_exceptions=False).output
    assert "* LEPO_SLOTS=7" in said
    assert "  LEPO_PORT=8000" in said
    assert "//lepo:***@db/lepo" in said
    assert "topsecret" not in said
