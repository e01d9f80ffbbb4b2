"""The base model is loaded outside any transaction, however long that takes, and registered once."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from app.api.policy import first as first_policy
from app.settings import Settings
from app.store.budgets import CONTROL
from app.store.connect import open_store
from app.store.policy_life import serving
from training.models.policy import Policy

SLOW_SECONDS = 1.5


def test_a_model_may_take_longer_to_load_than_a_transaction_may_idle(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(*args: Any, **options: Any) -> Policy:
        time.sleep(SLOW_SECONDS)
        return loaded(*args, **options)

    loaded = first_policy.load
    monkeypatch.setattr(first_policy, "load", slowly)
    settings = Settings(var_dir=tmp_path, device="cpu")
    store = open_store(database_url, 2, dataclasses.replace(CONTROL, idle_s=SLOW_SECONDS / 3))
    try:
        assert first_policy.first_policy(settings, store).version == 0
        assert first_policy.first_policy(settings, store).version == 0, "registered once, then found"
        with store.session() as session:
            row = serving(session)
    finally:
        store.close()
    assert row is not None
    assert Path(row.path) == tmp_path / "checkpoints" / "v00000000"
