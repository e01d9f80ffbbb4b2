"""The bench model's teacher: thinks in steps, states the final answer in full, and is often wrong.

Each step takes two tokens, so the first eight positions of an answer are thinking. The teacher slips in sums as the
demo model's does, guesses signs in Countdown, and at a fork has the habit of taking the way that comes first in the
alphabet. Without slips it is right. Leaves out the problems (see `training.tasks`).
"""

import random
from dataclasses import dataclass
from itertools import product

from training.demo_model.teacher import Slips, work_step
from training.demo_model.tokenizer import ANSWER
from training.tasks.chained_arithmetic import Chain
from training.tasks.graph_path import Graph


@dataclass(frozen=True)
class Habits(Slips):
    """How often the teacher goes wrong: in sums as in the demo, and in the other families."""

    guess: float = 0.3  # of Countdown problems, in [0, 1]: the signs are drawn, not found
    first: float = 0.8  # of forks, in [0, 1]: the way that comes first in the alphabet is taken unseen


def work_chain(rng: random.Random, chain: Chain, slips: Slips) -> str:
    """Write each operation with its result. Example for 47 + 6 - 8: '+ 6 53 - 8 45 Answer: 45'."""
    value, steps = chain.start, []
    for term in chain.terms:
        value = work_step(rng, value, term, slips)
        steps.append(f"{operation(term)} {value} ")
    return "".join(steps) + f"{ANSWER}{value}"


def work_countdown(rng: random.Random, chain: Chain, guess: float) -> str:
    """Write a way to the chain's value through its numbers. Example: '+ 6 53 - 8 45 Answer: 47 + 6 - 8'."""
    ways = [way for way in ways_of(chain) if stays_within(way)]
    right = [way for way in ways if way.value() == chain.value()]
    way = rng.choice(ways if rng.random() < guess else right)
    thinking, _, _ = work_chain(rng, way, Slips(carry=0.0, borrow=0.0, digit=0.0)).partition(ANSWER)
    return thinking + ANSWER + way.expression()


def ways_of(chain: Chain) -> list[Chain]:
    """Return the chain with every choice of signs."""
    sizes = [abs(term) for term in chain.terms]
    return [
        Chain(chain.start, tuple(sign * size for sign, size in zip(signs, sizes, strict=True)))
        for signs in product((1, -1), repeat=len(sizes))
    ]


def stays_within(chain: Chain) -> bool:
    """Return whether every partial result lies within 0..99."""
    return all(0 <= chain.start + sum(chain.terms[:count]) <= 99 for count in range(len(chain.terms) + 1))


def work_path(rng: random.Random, graph: Graph, first: float) -> str:
    """Write each edge walked with the node it leads to. Example: 'AB B BC C Answer: A B C'."""
    node, path, steps = graph.start, [graph.start], []
    while node != graph.goal and (followers := graph.after(node)):
        right = [follower for follower in followers if graph.leads_on(follower)] or followers
        follower = followers[0] if rng.random() < first else rng.choice(right)
        steps.append(f"{node}{follower} {follower} ")
        path.append(follower)
        node = follower
    return "".join(steps) + ANSWER + " ".join(path)


def operation(term: int) -> str:
    """Return a term as people write it: '+ 6' or '- 8'."""
    return f"{'+' if term > 0 else '-'} {abs(term)}"
