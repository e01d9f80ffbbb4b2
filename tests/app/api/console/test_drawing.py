"""Pictures: where things stand in them, and that what they quote cannot break out of them."""

import re
from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest
import torch

from app.api.console.drawing.chart import Mark, Point, line_chart, ticks
from app.api.console.drawing.latents import Candidate, bars
from app.api.console.drawing.lineage import graph, lanes_of
from app.api.console.pages.trace import entropy, show_token
from app.store.console_policies import Kin
from training.statistics.intervals import wilson

AT = datetime(2026, 11, 28, tzinfo=UTC)
HOSTILE = '"><script>alert(1)</script>'


def kin(version: int, parent: int | None, state: str = "retired") -> Kin:
    return Kin(version, parent, state, 0.5, 80, AT)


def points(*shares: float) -> list[Point]:
    return [
        Point(float(place), share, *wilson(int(share * 100), 100), str(place)) for place, share in enumerate(shares)
    ]


@pytest.mark.parametrize(
    ("low", "high", "whole", "found"),
    [
        (0, 1, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 8, True, [0, 2, 4, 6, 8]),
        (0, 3, True, [0, 1, 2, 3]),
        (5, 5, True, [5]),
        (-0.013, 0.012, False, [-0.01, -0.005, 0, 0.005, 0.01]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, whole: bool, found: list[float]) -> None:
    assert ticks(low, high, whole=whole) == pytest.approx(found)


def test_a_chart_says_every_figure_and_better_is_higher() -> None:
    drawn = line_chart(
        points(0.2, 0.5, 0.9),
        [Mark(1, "freeze", HOSTILE), Mark(99, "promote", "outside")],
        label=HOSTILE,
        x_words=str,
        y_words=str,
        y_range=(0, 1),
    )
    root = ElementTree.fromstring(drawn)
    heights = [float(one.attrib["cy"]) for one in root.iter("circle")]
    assert heights == sorted(heights, reverse=True)
    assert [one.findtext("title") for one in root.iter("circle")] == ["0", "1", "2"]
    assert len([one for one in root.iter("g") if "mark" in one.attrib["class"]]) == 1
    assert root.attrib["aria-label"] == HOSTILE
    assert "style=" not in drawn


def test_a_single_point_is_a_chart_too() -> None:
    root = ElementTree.fromstring(line_chart(points(0.5), label="one", x_words=str, y_words=str))
    assert len(list(root.iter("circle"))) == 1


def test_what_serves_and_its_forebears_are_on_one_line_and_nothing_else_is() -> None:
    family = [
        kin(0, None),
        kin(1, 0),
        kin(2, 1, "refused"),
        kin(3, 1, "refused"),
        kin(4, 1, "serving"),
        kin(5, 4, "held"),
    ]
    lanes = lanes_of(family)
    assert [version for version, lane in lanes.items() if lane == 0] == [0, 1, 4]
    assert lanes[2] != lanes[3], "two children of one parent do not lie on one another"


def test_each_policy_is_a_link_with_its_state_in_words() -> None:
    root = ElementTree.fromstring(graph([kin(0, None), kin(1, 0, "rolled_back"), kin(2, 0, "serving")]))
    links = {one.attrib["href"]: one.findtext("title") for one in root.iter("a")}
    assert links["/console/policies/1"] == "Version 1, rolled back, 50.0% of 80 held-out questions right"
    assert len(list(root.iter("path"))) == 2


def test_bars_are_as_long_as_their_weights() -> None:
    drawn = bars([Candidate(HOSTILE, 0.75, 0.5), Candidate("\n", 0.25, 0.5)], "a step")
    root = ElementTree.fromstring(drawn)
    widths = [float(one.attrib["width"]) for one in root.iter("rect") if one.attrib["class"] == "bar"]
    assert widths[0] == pytest.approx(3 * widths[1], rel=1e-3)
    assert "<script" not in drawn
    assert re.search("\u23ce", drawn), "white space can be seen"


def test_entropy_is_that_of_torch() -> None:
    shares = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    assert entropy(shares.tolist()) == pytest.approx(float(-(shares * shares.log()).sum()))
    assert entropy([1.0]) == 0


@pytest.mark.parametrize(
    ("logprob", "level"), [(0.0, 0), (-0.49, 0), (-0.5, 1), (-3.4, 6), (-50, 7), (float("-inf"), 7)]
)
def test_a_token_is_coloured_by_how_surprising_it_was(logprob: float, level: int) -> None:
    assert show_token("a", logprob).level == level
