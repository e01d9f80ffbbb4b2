"""Rotary parameters as configurations have them. Leaves out computing anything with them: that is transformers'."""

from typing import Any


def ropes(config: Any) -> list[dict[str, Any]]:
    """Give the rotary parameters of a model: one set, or one per kind of its layers."""
    said = getattr(config, "rope_parameters", None) or {}
    nested = [one for one in said.values() if isinstance(one, dict)]
    return nested or [said]
