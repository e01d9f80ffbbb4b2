"""Under which conditions the service is put: how its users grade, and how it learns from that.

Leaves out the users themselves (`benchmarks.online.crowd`) and running (`benchmarks.online.trial`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Learning = Literal["auto", "tracker", "batch", "group", "off"]


@dataclass(frozen=True, slots=True)
class Manners:
    """How users grade; all shares in [0, 1]."""

    delay_s: float = 0.0  # mean of the random delay of a grade, exponential, >= 0
    ungraded: float = 0.0  # share of answers that are never graded
    flipped: float = 0.0  # share of grades that say the opposite
    hostile: float = 0.0  # share of users (each with a key of its own) who praise what is wrong and blame what is right
    hostile_pace: float = 1.0  # how many times as quickly as others they ask, >= 1
    graders: bool = False  # requests name their grader: the server grades each answer, and users post nothing
    delay_updates: float = 0.0  # likewise, in intervals between two updates of the clean condition
    blamed: float = 1.0  # share of wrong answers that get their blame; of the others nobody says anything
    corrected: float | None = None  # share of wrong answers that get the right one written out; no number is ever given
    session_questions: float = 0.0  # mean questions of a session, geometric, >= 1; 0: requests name no session


@dataclass(frozen=True, slots=True)
class Condition:
    """One run of the service."""

    name: str
    about: str  # a line for the report
    learning: Learning  # LEPO_BASELINE, or "off": the control that never learns
    manners: Manners
    key_share: float  # LEPO_KEY_SHARE
    gated: bool  # whether the gate has held-out prompts to refuse with
    resample: int = 0  # LEPO_RESAMPLE
    rollback: bool = (
        False  # after half of the grades what serves is rolled back by several versions, and learning thawed
    )
    lone_key: bool = False  # another key asks one question for four answers at the beginning, grades them, and is gone
    poisoned: bool = False  # see `benchmarks.online.episode`: one update is made of opposite grades, unseen by the gate

    @property
    def by_answers(self) -> bool:
        """Whether asking ends by answers instead of grades: late grades are not to be made up for by more of them."""
        return self.manners.delay_updates > 0


CLEAN: Final = Manners()
NOISY: Final = Manners(delay_s=3.0, ungraded=0.3, flipped=0.1, hostile=0.05)
GRADERS: Final = Manners(graders=True)
LATE: Final = Manners(delay_updates=10.0)
THUMBS_UP: Final = Manners(blamed=0.08)  # at 40% right, nine grades of ten are praise
CORRECTIONS: Final = Manners(corrected=1 / 3)
FLOOD: Final = Manners(delay_s=3.0, ungraded=0.3, flipped=0.1, hostile=0.05, hostile_pace=8.0)
SESSIONS: Final = Manners(session_questions=3.0)
SHARE: Final = 0.10  # of one key among twenty: twice its fair part
CANARY_SHARE: Final = 0.05  # of sessions that meet a new policy first: half of what may be served by a bad one
CAUTIOUS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "LEPO_CANARY_SHARE": str(CANARY_SHARE),
        "LEPO_FREEZE_AFTER": "1",  # what was taken back is not tried again before somebody has looked
        "LEPO_EPOCHS": "2",  # sixteen steps in an update: one alone follows its momentum, whatever its batch says
        "LEPO_MINIBATCHES": "8",
    }
)
WRITTEN_OUT: Final[Mapping[str, str]] = MappingProxyType(
    {"LEPO_MIN_GRADES": "32"}  # a correction speaks of every token, and there are few: a quarter as many for an update
)
IMPATIENT: Final[Mapping[str, str]] = MappingProxyType(
    {"LEPO_KEY_PATIENCE": "5"}  # a run lasts a minute, which is how long the share may hold an update up by default
)
_ALL: Final = (
    Condition("control", "clean grades, never learns", "off", CLEAN, SHARE, gated=True),
    Condition("clean-tracker", "clean grades, value tracker", "tracker", CLEAN, SHARE, gated=True),
    Condition("clean-batch", "clean grades, batch mean", "batch", CLEAN, SHARE, gated=True),
    Condition(
        "clean-group", "clean grades, groups only: single grades teach nothing", "group", CLEAN, SHARE, gated=True
    ),
    Condition(
        "clean-resampled",
        "requests name their grader, and the worker answers anew, 4 times each",
        "auto",
        GRADERS,
        SHARE,
        gated=True,
        resample=4,
    ),
    Condition("noisy-tracker", "the noisy mix, value tracker", "tracker", NOISY, SHARE, gated=True),
    Condition("noisy-batch", "the noisy mix, batch mean", "batch", NOISY, SHARE, gated=True),
    Condition(
        "noisy-ungated", "the noisy mix, value tracker, no held-out prompts", "tracker", NOISY, SHARE, gated=False
    ),
    Condition("flood", "the noisy mix, and the hostile key asks 8 times as often", "tracker", FLOOD, SHARE, gated=True),
    Condition("late", "true grades, ten intervals between updates late on average", "batch", LATE, SHARE, gated=True),
    Condition(
        "late-two-branches",
        "the same, and a rollback after half of the grades",
        "batch",
        LATE,
        SHARE,
        gated=True,
        rollback=True,
    ),
    Condition("two-keys", "one busy key, and one request by another", "batch", CLEAN, 0.5, gated=True, lone_key=True),
    Condition("thumbs-up", "nine grades of ten are praise", "tracker", THUMBS_UP, SHARE, gated=True),
    Condition(
        "corrections",
        "no numbers: a third of wrong answers is corrected, 32 make an update",
        "batch",
        CORRECTIONS,
        SHARE,
        gated=True,
    ),
    Condition(
        "bad-update",
        "opposite grades make one update that the gate cannot see through; the canary must",
        "batch",
        SESSIONS,
        SHARE,
        gated=True,
        poisoned=True,
    ),
)
CONDITIONS: Final[Mapping[str, Condition]] = MappingProxyType({one.name: one for one in _ALL})


def settings_of(condition: Condition) -> dict[str, str]:
    """Write a condition as settings of the service."""
    learns = condition.learning != "off"
    return {
        "LEPO_LEARN": str(learns).lower(),
        "LEPO_BASELINE": condition.learning if learns else "auto",
        "LEPO_KEY_SHARE": str(condition.key_share),
        "LEPO_RESAMPLE": str(condition.resample),
        **(CAUTIOUS if condition.poisoned else {}),
        **(WRITTEN_OUT if condition.manners.corrected is not None else {}),
        **(IMPATIENT if condition.lone_key else {}),
    }
