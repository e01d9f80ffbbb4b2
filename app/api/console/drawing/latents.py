"""A latent step as a picture: its likeliest candidates as bars, and how far the mixture spread.

A step is a mixture of token embeddings: the weights are what was executed, the probabilities what they were drawn
from. Leaves out reading the trace (`app.api.console.pages.trace`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from app.api.console.drawing.svg import element, picture, text, title

WIDTH: Final = 260.0
ROW: Final = 20.0
NAMES: Final = 78.0  # left of the bars
FIGURES: Final = 44.0  # right of them
LONGEST: Final = 10  # characters of a token's name


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token in the mixture."""

    name: str  # as text
    weight: float  # share of the mixture, 0 to 1
    probability: float  # by the policy, within the support, 0 to 1


def bars(candidates: Sequence[Candidate], label: str) -> Markup:
    """Draw candidates, the heaviest first: a bar of its weight, and a tick at the probability it was drawn from."""
    room = WIDTH - NAMES - FIGURES
    parts = []
    for place, one in enumerate(candidates):
        top = place * ROW
        words = f"{visible(one.name)}: weight {one.weight:.3f}, probability {one.probability:.3f}"
        tick_x = NAMES + room * min(1.0, one.probability)
        parts.append(
            element(
                "g",
                title(words),
                text(shortened(visible(one.name)), NAMES - 6, top + 14, "token", "end"),
                element("rect", x=NAMES, y=top + 4, width=room, height=ROW - 8, class_="rail", rx=2),
                element(
                    "rect", x=NAMES, y=top + 4, width=max(1.0, room * one.weight), height=ROW - 8, class_="bar", rx=2
                ),
                element("line", x1=tick_x, x2=tick_x, y1=top + 2, y2=top + ROW - 2, class_="prior"),
                text(f"{one.weight:.2f}", WIDTH - FIGURES + 6, top + 14, "tick"),
            )
        )
    return picture(WIDTH, ROW * len(candidates), label, parts, "latent")


def visible(name: str) -> str:
    """Write a token so that its white space can be seen."""
    shown = name.replace(" ", "\u2423").replace("\n", "\u23ce").replace("\t", "\u21e5")
    return shown or "\u2205"


def shortened(name: str) -> str:
    """Bound a name."""
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "\u2026"
