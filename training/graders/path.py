"""path: whether an answer is a path from the start to the goal of a directed graph. Every path is accepted.

A path is written as node names with spaces, commas or arrows between them, like `A B C` or `A -> B -> C`. It may visit
a node twice; it may not leave the edges. Anything else is a wrong answer.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from training.graders.extract import Extraction, read_extraction
from training.graders.spec import MAX_NAME, SpecFields
from training.graders.verdict import Graded, Verdict

KIND = "path"
MAX_EDGES = 1000
MAX_NODE = 20  # characters of a node's name
MAX_ANSWER = 20_000  # characters judged; a longer text is no path of such a graph that anyone would write
NODE = re.compile(r"[A-Za-z0-9_]+", re.ASCII)
BETWEEN = re.compile(r"\s*(?:->|[\s,>\N{RIGHTWARDS ARROW}])\s*")


@dataclass(frozen=True, slots=True)
class Path:
    """Grades 1 where the nodes start at the start, follow edges, and end at the goal, else 0."""

    name: str
    edges: frozenset[tuple[str, str]]  # from, to
    start: str
    goal: str  # another node than the start
    extraction: Extraction
    kind: str = KIND
    version: str = "1"

    def grade(self, answer: str, deadline_s: float) -> Verdict:
        """Judge the answer; linear in its length, so the deadline is never near."""
        assert deadline_s > 0, "a deadline lies ahead"
        judged = self.extraction.find(answer)
        if judged is None:
            return Graded(0.0, self.extraction.missing())
        shown = repr(judged[:200])
        nodes = BETWEEN.split(judged) if len(judged) <= MAX_ANSWER else []
        if not nodes or not all(map(NODE.fullmatch, nodes)):
            return Graded(0.0, f"{shown} is not a list of nodes")
        if nodes[0] != self.start or nodes[-1] != self.goal:
            return Graded(0.0, f"{shown} does not lead from {self.start} to {self.goal}")
        for step in pairwise(nodes):
            if step not in self.edges:
                return Graded(0.0, f"{shown} goes from {step[0]} to {step[1]}, where there is no edge")
        return Graded(1.0, shown)


def read_path(fields: SpecFields) -> Path:
    """Read the spec's fields."""
    name = fields.text("name", MAX_NAME, KIND)
    edges = fields.take("edges")
    if not isinstance(edges, list) or not 1 <= len(edges) <= MAX_EDGES:
        raise fields.error("edges", f"must be a list of 1 to {MAX_EDGES} edges")
    if not all(is_edge(edge) for edge in edges):
        raise fields.error("edges", 'must hold pairs of nodes, from and to, like ["A", "B"]; see `start` for names')
    start, goal = (read_node(fields, field) for field in ("start", "goal"))
    if start == goal:
        raise fields.error("goal", "must be another node than the start")
    extraction = read_extraction(fields)
    fields.close()
    return Path(name, frozenset((source, target) for source, target in edges), start, goal, extraction)


def is_edge(edge: Any) -> bool:
    """Return whether a value is a pair of node names."""
    return isinstance(edge, list | tuple) and len(edge) == 2 and all(map(is_node, edge))


def is_node(value: Any) -> bool:
    """Return whether a value is a node's name."""
    return isinstance(value, str) and len(value) <= MAX_NODE and NODE.fullmatch(value) is not None


def read_node(fields: SpecFields, field: str) -> str:
    """Read a field that must be a node's name."""
    node = fields.text(field, MAX_NODE)
    if not is_node(node):
        raise fields.error(field, "must be a node's name: letters, digits and underscores")
    return node
