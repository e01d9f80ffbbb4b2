"""A lineage as a graph: policies from left to right in the order they were made, each joined to its parent.

What serves and its forebears are on the top line; whatever was refused, rolled back or waits hangs below. Leaves out
where policies come from (`app.store.console_policies`).
"""

from collections.abc import Mapping, Sequence
from typing import Final

from markupsafe import Markup

from app.api.console.drawing.svg import element, text, title
from app.api.console.pages.words import percent
from app.store.console_policies import Kin

STEP: Final = 58.0  # from one policy to the next
LANE: Final = 54.0
EDGE: Final = 30.0  # margin
RADIUS: Final = 15.0


def graph(kin: Sequence[Kin]) -> Markup:
    """Draw policies, at least one, by version."""
    lanes = lanes_of(kin)
    at = {one.version: (EDGE + place * STEP, EDGE + lanes[one.version] * LANE) for place, one in enumerate(kin)}
    width = 2 * EDGE + STEP * (len(kin) - 1)
    height = 2 * EDGE + LANE * max(lanes.values()) + 8
    parts = [joined(at, one) for one in kin if one.parent in at]
    parts += [node(one, *at[one.version]) for one in kin]
    return element(
        "svg",
        *parts,
        width=width,
        height=height,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="group",
        aria_label="Lineage: policies by version, each joined to its parent",
        class_="lineage picture",
    )


def lanes_of(kin: Sequence[Kin]) -> dict[int, int]:
    """Choose a line for each policy: 0 for what serves and its forebears, others one that is free at its place."""
    known = {one.version: one for one in kin}
    line = next((one for one in kin if one.state == "serving"), kin[-1])
    straight = {line.version}
    while line.parent is not None and line.parent in known:
        line = known[line.parent]
        straight.add(line.version)
    lanes: dict[int, int] = {}
    last: dict[int, int] = {}  # lane -> the newest version on it
    for one in kin:
        lane = 0 if one.version in straight else 1
        if lane:
            same = lanes.get(one.parent, 0) if one.parent is not None else 0
            lane = same if same and last.get(same) == one.parent else free(last, one, kin)
        lanes[one.version] = lane
        last[lane] = one.version
    return lanes


def free(last: Mapping[int, int], one: Kin, kin: Sequence[Kin]) -> int:
    """Find a line that no policy between this one and its parent is on."""
    begin = -1 if one.parent is None else one.parent
    taken = {lane for lane, version in last.items() if version > begin}
    return next(lane for lane in range(1, len(kin) + 1) if lane not in taken)


def joined(at: Mapping[int, tuple[float, float]], one: Kin) -> Markup:
    """Draw the line from a policy to its parent."""
    assert one.parent is not None
    (x, y), (before_x, before_y) = at[one.version], at[one.parent]
    middle = x - STEP / 2
    return element(
        "path", d=f"M{before_x:.0f} {before_y:.0f}H{middle - 12:.0f}L{middle + 6:.0f} {y:.0f}H{x:.0f}", class_="edge"
    )


def node(one: Kin, x: float, y: float) -> Markup:
    """Draw a policy: a link to its page."""
    held_out = "" if one.accuracy is None else f", {percent(one.accuracy)} of {one.asked} held-out questions right"
    words = f"Version {one.version}, {one.state.replace('_', ' ')}{held_out}"
    figure = "" if one.accuracy is None else percent(one.accuracy, 0)
    return element(
        "a",
        title(words),
        element("circle", cx=x, cy=y, r=RADIUS),
        text(str(one.version), x, y + 4.5, "version", "middle"),
        text(figure, x, y + RADIUS + 13, "tick", "middle"),
        href=f"/console/policies/{one.version}",
        class_=f"policy {one.state}",
    )
