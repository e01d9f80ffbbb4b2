"""One chart: points with intervals over a horizontal axis, joined by a line, and marks where something happened.

Leaves out where figures come from. Two or three kinds of marks share a chart; each has a shape of its own, so that
colour alone says nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

from app.api.console.drawing.svg import element, picture, text, title

WIDTH: Final = 460.0
HEIGHT: Final = 220.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, 10.0, 14.0, 28.0  # margins
MOST_TICKS: Final = 6
STEPS: Final = (1, 2, 5)
SHAPES: Final = {  # event -> what is drawn at the bottom of its line
    "promote": "M-3.5 4 L0 -3 L3.5 4 Z",  # a triangle up
    "restore": "M-3.5 -3 L0 4 L3.5 -3 Z",  # a triangle down
    "roll_back": "M-3.5 -3 L0 4 L3.5 -3 Z",
    "freeze": "M-3.5 -3.5 L3.5 3.5 M3.5 -3.5 L-3.5 3.5",  # a cross
    "pin": "M0 -4 L4 0 L0 4 L-4 0 Z",  # a diamond
}


@dataclass(frozen=True, slots=True)
class Point:
    """A figure with its interval."""

    x: float
    y: float
    low: float  # ends of the interval; both equal to y: there is none
    high: float
    label: str  # what it says in words


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened."""

    x: float
    event: str  # one of `SHAPES`
    label: str


@dataclass(frozen=True, slots=True)
class Axis:
    """Where a figure stands between the ends of the picture."""

    low: float
    high: float
    begin: float  # coordinate of `low`
    end: float

    def place(self, value: float) -> float:
        """Find the coordinate of a value, within the picture."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.begin + min(1.0, max(0.0, share)) * (self.end - self.begin)


def line_chart(
    points: Sequence[Point],
    marks: Sequence[Mark] = (),
    *,
    label: str,
    x_words: Callable[[float], str],
    y_words: Callable[[float], str],
    y_range: tuple[float, float] | None = None,
    whole: bool = False,
) -> Markup:
    """Draw a chart.

    Args:
        points: by x; at least one.
        marks: those outside the points' span are left out.
        label: what it shows, for who cannot see it.
        x_words: how a place on the horizontal axis is written.
        y_words: how a figure is written.
        y_range: ends of the vertical axis; None: what the intervals need.
        whole: whether only whole numbers are places on the horizontal axis.

    """
    x = Axis(points[0].x, points[-1].x, LEFT + 8, WIDTH - RIGHT - 8)
    low, high = y_range or spread(points)
    y = Axis(low, high, HEIGHT - BOTTOM, TOP)
    inside = [mark for mark in marks if x.low <= mark.x <= x.high and mark.event in SHAPES]
    parts = [
        *(grid(y, tick, y_words(tick)) for tick in ticks(low, high)),
        *(below(x, tick, x_words(tick)) for tick in ticks(x.low, x.high, whole=whole)),
        *(marked(x, mark) for mark in inside),
        band(points, x, y),
        element(
            "polyline", points=" ".join(f"{x.place(one.x):.1f},{y.place(one.y):.1f}" for one in points), class_="line"
        ),
        *(dot(one, x, y) for one in points),
    ]
    return picture(WIDTH, HEIGHT, label, parts, "chart")


def spread(points: Sequence[Point]) -> tuple[float, float]:
    """Find ends of the vertical axis that show all of the points, and some room."""
    low, high = min(one.low for one in points), max(one.high for one in points)
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Choose round numbers between two ends."""
    size = (high - low) or 1.0
    unit = 1.0
    while unit > size / MOST_TICKS:
        unit /= 10
    while unit * 10 <= size / MOST_TICKS:
        unit *= 10
    step = next((unit * one for one in (*STEPS, 10) if size / (unit * one) <= MOST_TICKS), unit * 10)
    if whole:
        step = max(1.0, round(step))
    first = -(-low // step) * step
    return [first + step * place for place in range(int((high - first) / step + 1e-9) + 1)]


def grid(y: Axis, value: float, words: str) -> Markup:
    """Draw a line across, with its figure."""
    at = y.place(value)
    across = element("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="grid")
    return across + text(words, LEFT - 5, at + 4, "tick", "end")


def below(x: Axis, value: float, words: str) -> Markup:
    """Write a place under the horizontal axis."""
    return text(words, x.place(value), HEIGHT - BOTTOM + 16, "tick", "middle")


def band(points: Sequence[Point], x: Axis, y: Axis) -> Markup:
    """Draw the intervals as whiskers."""
    drawn = "".join(
        f"M{x.place(one.x):.1f} {y.place(one.low):.1f}V{y.place(one.high):.1f}" for one in points if one.low < one.high
    )
    return element("path", d=drawn or "M0 0", class_="whisker")


def dot(point: Point, x: Axis, y: Axis) -> Markup:
    """Draw a figure."""
    return element("circle", title(point.label), cx=x.place(point.x), cy=y.place(point.y), r=3.2, class_="dot")


def marked(x: Axis, mark: Mark) -> Markup:
    """Draw where something happened: a line, and the shape of its kind at its foot."""
    at = x.place(mark.x)
    foot = HEIGHT - BOTTOM
    down = element("line", x1=at, x2=at, y1=TOP, y2=foot, class_="when")
    shape = element("path", d=SHAPES[mark.event], transform=f"translate({at:.1f} {foot:.1f})")
    return element("g", title(mark.label), down, shape, class_=f"mark {mark.event}")
