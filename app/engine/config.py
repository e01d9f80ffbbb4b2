"""The engine's own settings: sizes, bounds and how new weights take over.

Leaves out what belongs to one request (`app.engine.request`) and what belongs to the model (`training.models.policy`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from app.settings import Settings

SwapMode = Literal["two_versions", "drain", "in_place"]
Packing = Literal["auto", "off"]


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Sizes and bounds of one engine.

    Example: `EngineConfig(slots=32, max_length=2048)`.

    Raises:
        ValueError: a value is out of its range; the message names the field.

    """

    slots: int = 32  # answers decoded together, >= 1
    max_length: int = 2048  # prompt plus generated positions of one answer, >= 8
    max_top_k: int = 64  # K, the most candidates a request may keep per step, >= 1
    prefill_chunk: int = 256  # prompt positions computed at every step, >= 8
    cache_tokens: int = 0  # positions of answers, prompts and prefixes of all versions; 0: by memory, `app.engine.room`
    prefix_cache_tokens: int = 65_536  # of these, kept for reuse when nobody holds them; 0 is off
    max_waiting: int = 256  # choices that may wait for a slot
    swap_mode: SwapMode = "two_versions"  # see `app.engine.swap`
    swap_patience_s: float = 5.0  # seconds an urgent swap waits for rows of an earlier version, >= 0
    packing: Packing = "auto"  # see `app.engine.lane.quicker`; off: the stock forward
    threads: int = 0  # torch threads of a started engine's thread; 0: as many as the thread that makes it has

    def __post_init__(self) -> None:
        lowest = {"slots": 1, "max_length": 8, "max_top_k": 1, "prefill_chunk": 8}
        for name, bound in lowest.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} must be {bound} or more, got {getattr(self, name)}")
        for name in ("cache_tokens", "prefix_cache_tokens", "max_waiting", "swap_patience_s", "threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    @classmethod
    def from_settings(cls, settings: "Settings") -> "EngineConfig":
        """Take the engine's fields from the settings of the process."""
        return cls(
            slots=settings.slots,
            max_length=settings.max_length,
            max_top_k=settings.max_top_k,
            prefill_chunk=settings.prefill_chunk,
            cache_tokens=settings.cache_tokens,
            prefix_cache_tokens=settings.prefix_cache_tokens,
            max_waiting=settings.max_waiting,
            swap_mode=settings.swap_mode,
            swap_patience_s=settings.rollback_patience,
            packing=settings.packing,
            threads=settings.threads,
        )
