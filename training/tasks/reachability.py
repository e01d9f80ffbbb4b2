"""Which nodes of a small directed graph are reached: two trees, whose edges come in no order.

Every node asked about is two edges below one root or the other. Whoever follows one way at a time knows of one node;
whoever holds all ways in mind knows of them all (as in arXiv:2505.12514). Leaves out how a solution is worded.
"""

import random
from dataclasses import dataclass

from training.tasks.graph_path import NODES
from training.tasks.problem import Problem

NAME = "reachability"
DIFFICULTIES = (2, 3)  # nodes asked about
WAYS = 2  # edges out of a root, and out of each node below it


@dataclass(frozen=True)
class Forest:
    """Two trees of WAYS + WAYS^2 edges each, of which one is asked about."""

    edges: tuple[str, ...]  # each two letters, from and to, in the order shown
    start: str  # the root asked about
    asked: tuple[str, ...]  # leaves of either tree, in alphabetical order

    def after(self, node: str) -> list[str]:
        """Return the nodes that edges lead to from `node`, in alphabetical order."""
        return sorted(edge[1] for edge in self.edges if edge[0] == node)

    def reached(self) -> tuple[str, ...]:
        """Return the nodes asked about that the start reaches, in alphabetical order."""
        leaves = [leaf for node in self.after(self.start) for leaf in self.after(node)]
        return tuple(node for node in self.asked if node in leaves)


def draw_forest(rng: random.Random, asked: int) -> Forest:
    """Draw two trees and that many leaves, 2..WAYS^2: of them at least one is reached and at least one is not."""
    fresh = rng.sample(NODES, 2 * (1 + WAYS + WAYS**2))
    (mine, near), (other, far) = _tree(fresh), _tree(fresh)
    edges = [*mine, *other]
    rng.shuffle(edges)
    reached = rng.randint(1, asked - 1)
    leaves = rng.sample(near, reached) + rng.sample(far, asked - reached)
    return Forest(tuple(edges), mine[0][0], tuple(sorted(leaves)))


def _tree(fresh: list[str]) -> tuple[list[str], list[str]]:
    """Build a tree of two levels from unused letters: its edges, the root's first, and its leaves."""
    root = fresh.pop()
    below = [fresh.pop() for _ in range(WAYS)]
    ends = [(node, fresh.pop()) for node in below for _ in range(WAYS)]
    return [root + node for node in below] + [node + leaf for node, leaf in ends], [leaf for _, leaf in ends]


@dataclass(frozen=True)
class Reachability:
    """The family: draws problems of one difficulty at a time."""

    name: str = NAME
    difficulties: tuple[int, ...] = DIFFICULTIES

    def draw(self, rng: random.Random, difficulty: int) -> Problem:
        """Draw a problem; `difficulty` is the number of nodes asked about."""
        return reachability_problem(draw_forest(rng, difficulty))

    def canonical(self, problem: Problem) -> str:
        """Return the prompt with its edges sorted: their order asks nothing else.

        Two graphs that differ only in their letters count as different problems.
        """
        verb, *edges, question = problem.prompt.split(" ", 1 + 2 * (WAYS + WAYS**2))
        return " ".join([verb, *sorted(edges), question])


def reachability_problem(forest: Forest) -> Problem:
    """Word the problem."""
    answer = " ".join(forest.reached())
    grader = {
        "type": "string_check",
        "operation": "eq",
        "reference": answer,
        "extract": "after_marker",
        "marker": "Answer:",
    }
    prompt = f"Follow {' '.join(forest.edges)} from {forest.start} to which of {' '.join(forest.asked)}."
    return Problem(prompt, answer, grader, NAME, len(forest.asked))
