"""Paths in a small directed graph, whose edges come in no order.

A path of four edges leads from the start to the goal; some of its nodes have a second edge, to a branch that ends, or
that comes back to the path further on. Standing at a fork nothing but the rest of the graph says which way is right:
holding both ways in mind should pay. Any path to the goal counts. Leaves out how a solution is worded.
"""

import random
from dataclasses import dataclass

from training.tasks.problem import Problem

NAME = "graph_path"
DIFFICULTIES = (1, 2, 3)  # forks
NODES = "ABCDEFGHIJ"
HOPS = 4  # edges of the path that is laid first
COMES_BACK, GOES_ON = 0.25, 0.4  # of branches: rejoin the path, or take one more step before they end


@dataclass(frozen=True)
class Graph:
    """Directed edges with a start and a goal; at least one path joins them, and there is no cycle."""

    edges: tuple[str, ...]  # each two letters, from and to, in the order shown
    start: str
    goal: str
    path: str  # one right path, a letter per node; not always the only one

    def after(self, node: str) -> list[str]:
        """Return the nodes that edges lead to from `node`, in alphabetical order."""
        return sorted(edge[1] for edge in self.edges if edge[0] == node)

    def leads_on(self, node: str) -> bool:
        """Return whether the goal is reached from `node`."""
        return node == self.goal or any(self.leads_on(follower) for follower in self.after(node))


def draw_graph(rng: random.Random, forks: int) -> Graph:
    """Draw a graph whose path has that many forks, 0..HOPS."""
    nodes = "".join(rng.sample(NODES, len(NODES)))
    path, spare = nodes[: HOPS + 1], list(nodes[HOPS + 1 :])
    edges = [path[hop : hop + 2] for hop in range(HOPS)]
    for fork, hop in enumerate(rng.sample(range(HOPS), forks), start=1):
        branch = spare.pop()
        edges.append(path[hop] + branch)
        chance = rng.random()
        if chance < COMES_BACK and hop + 2 <= HOPS:
            edges.append(branch + path[rng.randrange(hop + 2, HOPS + 1)])
        elif chance > 1 - GOES_ON and len(spare) > forks - fork:
            edges.append(branch + spare.pop())
    rng.shuffle(edges)
    return Graph(tuple(edges), path[0], path[-1], path)


@dataclass(frozen=True)
class GraphPath:
    """The family: draws problems of one difficulty at a time."""

    name: str = NAME
    difficulties: tuple[int, ...] = DIFFICULTIES

    def draw(self, rng: random.Random, difficulty: int) -> Problem:
        """Draw a problem; `difficulty` is the number of forks."""
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
