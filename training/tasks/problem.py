"""One verifiable problem: what is asked, what is right, and how an answer is judged.

Leaves out how problems are made (see the families) and how answers are graded (see `training.graders`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """A prompt with its right answer and the grader that judges an attempt.

    Example:
    Problem("Work out 47 + 6 - 8 + 9 step by step.", "54", {"type": "string_check", ...}, "chained_arithmetic", 3)
    """

    prompt: str  # the user's message, as text
    answer: str  # the right final answer, as text; "" where the source holds none and any of many is right
    grader: Mapping[str, Any]  # a spec `training.graders.parse_grader` accepts
    family: str  # the family that made it, or "" for a problem from elsewhere
    difficulty: int  # the family's own scale, >= 0; more is harder
