"""Paths in a small directed graph of two trees that meet, whose edges come in no order.

From the start a tree leads forward, two ways at each node; another leads backward from the goal; one node is a leaf of
both, and the only path goes through it. From either end every way looks like every other until the far side of the
meeting is seen: whoever follows one way at a time must be lucky, whoever holds all ways in mind sees where they meet
(as in arXiv:2505.12514). Leaves out how a solution is worded.
"""

import random
from dataclasses import dataclass

from training.tasks.problem import Problem

NAME = "graph_path"
DIFFICULTIES = (2, 3)  # leaves of each tree that lead nowhere
NODES = "ABCDEFGHIJKLMNOP"
DEPTH = 2  # edges from each end to where the trees meet
HOPS = 2 * DEPTH  # edges of the path


@dataclass(frozen=True)
class Graph:
    """Directed edges with a start and a goal; a path joins them, and there is no cycle."""

    edges: tuple[str, ...]  # each two letters, from and to, in the order shown
    start: str
    goal: str
    path: str  # the right path, a letter per node

    def after(self, node: str) -> list[str]:
        """Return the nodes that edges lead to from `node`, in alphabetical order."""
        return sorted(edge[1] for edge in self.edges if edge[0] == node)

    def before(self, node: str) -> list[str]:
        """Return the nodes that edges lead from to `node`, in alphabetical order."""
        return sorted(edge[0] for edge in self.edges if edge[1] == node)

    def walks(self) -> list[str]:
        """Return every walk from the start that goes as far as it can, a letter per node."""
        ended, under_way = [], [self.start]
        while under_way:
            walk = under_way.pop()
            ways = self.after(walk[-1])
            under_way += [walk + node for node in ways]
            if not ways:
                ended.append(walk)
        return ended


def draw_graph(rng: random.Random, decoys: int) -> Graph:
    """Draw a graph with that many leaves per tree that lead nowhere, 1..3."""
    fresh = rng.sample(NODES, len(NODES))
    start, goal = fresh.pop(), fresh.pop()
    forward, leaves = _tree(rng, start, fresh, decoys)
    backward, roots = _tree(rng, goal, fresh, decoys)
    meeting, replaced = rng.choice(leaves), rng.choice(roots)
    edges = [above + below for above, below in forward]
    edges += [(meeting if below == replaced else below) + above for above, below in backward]
    rng.shuffle(edges)
    graph = Graph(tuple(edges), start, goal, "")
    [path] = [walk for walk in graph.walks() if walk[-1] == goal]
    return Graph(graph.edges, start, goal, path)


def _tree(rng: random.Random, root: str, fresh: list[str], decoys: int) -> tuple[list[tuple[str, str]], list[str]]:
    """Draw a tree of DEPTH levels with `decoys` + 1 leaves: pairs (above, below), and the leaves."""
    edges: list[tuple[str, str]] = []
    level = [root]
    for _ in range(DEPTH):
        pairs = [(above, fresh.pop()) for above in level for _ in range(2)]
        edges, level = edges + pairs, [below for _, below in pairs]
    while len(level) > decoys + 1:
        dropped = level.pop(rng.randrange(len(level)))
        edges = [(above, below) for above, below in edges if below != dropped]
    return edges, level


@dataclass(frozen=True)
class GraphPath:
    """The family: draws problems of one difficulty at a time."""

    name: str = NAME
    difficulties: tuple[int, ...] = DIFFICULTIES

    def draw(self, rng: random.Random, difficulty: int) -> Problem:
        """Draw a problem; `difficulty` is the number of leaves per tree that lead nowhere."""
        return path_problem(draw_graph(rng, difficulty), difficulty)

    def canonical(self, problem: Problem) -> str:
        """Return the sorted edges with start and goal: the order of the edges asks nothing else.

        Two graphs that differ only in their letters count as different problems.
        """
        grader = problem.grader
        edges = sorted("".join(edge) for edge in grader["edges"])
        return f"{' '.join(edges)} from {grader['start']} to {grader['goal']}"


def path_problem(graph: Graph, difficulty: int) -> Problem:
    """Word the problem."""
    prompt = f"Walk {' '.join(graph.edges)} from {graph.start} to {graph.goal}."
    grader = {
        "type": "path",
        "edges": [list(edge) for edge in graph.edges],
        "start": graph.start,
        "goal": graph.goal,
        "extract": "after_marker",
        "marker": "Answer:",
    }
    return Problem(prompt, " ".join(graph.path), grader, NAME, difficulty)
