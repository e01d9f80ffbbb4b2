"""The bench model's teacher: thinks in four thoughts, then states the final answer in full, and is often wrong.

A thought is one token, and what it may be follows from the thought before it: a partial result, or a node from which
the last one is reached. Where several thoughts may follow, a teacher who thinks in words picks one. One who thinks in
mixtures keeps all of them: what follows a mixture is the mixture of what follows its parts, so the same rule says what
a pupil should think next, in words or not. The answer comes from what was kept in mind.
Leaves out the problems (see `training.tasks`) and how lessons become tensors (`lessons`).
"""

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import NamedTuple, Protocol

from training.demo_model.teacher import Slips
from training.demo_model.tokenizer import ANSWER
from training.tasks.chained_arithmetic import Chain
from training.tasks.graph_path import Graph
from training.tasks.reachability import Forest

THOUGHTS = 4  # before every answer, one token each
DOUBT = 0.05  # weight of a walk that no thought speaks for, against 20 for one that a thought held whole speaks for
SEEN = 0.02  # weight from which a node in mind is stated
FORGOTTEN = 1e-3  # a mixture's parts below this weight are not followed
Mixture = Mapping[str, float]  # weights of thoughts by their text; they sum to 1


class Thought(NamedTuple):
    """One position of thinking."""

    expected: Mixture  # what may follow the thought before it, by probability
    thought: Mixture  # what was thought: one part of weight 1 in words, several in a mixture


@dataclass(frozen=True)
class Habits(Slips):
    """How often the teacher goes wrong: in sums as in the demo, only more often, and in Countdown."""

    carry: float = 0.3
    borrow: float = 0.6
    guess: float = 0.3  # of Countdown problems, in [0, 1]: the signs are drawn, not found


class Thinker(Protocol):
    """How the teacher works one problem."""

    def next(self, place: int, last: str | None) -> Mixture:
        """Say what may be thought at a place, 0..THOUGHTS - 1, after the last thought; empty: nothing follows."""

    def conclude(self, rng: random.Random, thoughts: Sequence[Mixture]) -> str:
        """Write the final answer after these thoughts."""


def think(rng: random.Random, thinker: Thinker, tau: float | None) -> list[Thought]:
    """Think about a problem: in words (tau None), or in Gumbel-softmax mixtures at a temperature.

    A part of a mixture that nothing follows fades; where nothing follows any part, the thought stays.
    """
    thoughts: list[Thought] = []
    last: Mixture = {}
    for place in range(THOUGHTS):
        followed: dict[str, float] = defaultdict(float)
        for text, weight in last.items() if place else [(None, 1.0)]:
            for after, share in thinker.next(place, text).items() if weight > FORGOTTEN else ():
                followed[after] += weight * share
        total = sum(followed.values())
        expected = {text: weight / total for text, weight in followed.items()} or dict(last)
        last = perturbed(rng, expected, tau)
        thoughts.append(Thought(expected, last))
    return thoughts


def perturbed(rng: random.Random, mixture: Mixture, tau: float | None) -> dict[str, float]:
    """Draw a Gumbel-softmax sample of a distribution, or (tau None) one of its parts."""
    scores = {text: math.log(weight) - math.log(rng.expovariate(1.0)) for text, weight in mixture.items()}
    top = max(scores, key=scores.__getitem__)
    if tau is None:
        return {top: 1.0}
    heights = {text: math.exp((score - scores[top]) / tau) for text, score in scores.items()}
    total = sum(heights.values())
    return {text: height / total for text, height in heights.items()}


@dataclass(frozen=True)
class ChainThinker:
    """Chained arithmetic, THOUGHTS operations: each thought is a partial result, the last one the answer."""

    chain: Chain
    slips: Slips

    def next(self, place: int, last: str | None) -> Mixture:
        """Add the term, or slip as a pupil does: a wrong partial result is carried on from."""
        value, term = self.chain.start if last is None else int(last), self.chain.terms[place]
        ones = value % 10 + term
        forgets = self.slips.carry if ones > 9 else self.slips.borrow if ones < 0 else 0.0
        written = {value + term: 1.0 - forgets}
        if forgets:
            written[value - value % 10 + ones % 10] = forgets
        found: dict[str, float] = defaultdict(float)
        for number, share in written.items():
            digit = self.slips.digit / 2
            for off, chance in ((0, 1 - 2 * digit), (-1, digit), (1, digit)):
                if share * chance:
                    found[f"{(number + off) % 100} "] += share * chance
        return found

    def conclude(self, rng: random.Random, thoughts: Sequence[Mixture]) -> str:
        """State a result that is in mind."""
        return ANSWER + drawn(rng, thoughts[-1]).strip()


@dataclass(frozen=True)
class CountdownThinker:
    """Countdown: from the target backwards, each thought undoes one number, by either sign."""

    chain: Chain  # one solution
    guess: float

    def next(self, place: int, last: str | None) -> Mixture:
        """Take the last number left, or put it back."""
        value = self.chain.value() if last is None else int(last)
        if place >= len(self.chain.terms):
            return {f"{value} ": 1.0}
        size = abs(self.chain.terms[-1 - place])
        ways = [way for way in (value - size, value + size) if 0 <= way <= 99]
        return {f"{way} ": 1 / len(ways) for way in ways}

    def conclude(self, rng: random.Random, thoughts: Sequence[Mixture]) -> str:
        """State a right way, rather one through values that are in mind; or guess."""
        ways = [way for way in ways_of(self.chain) if stays_within(way)]
        if rng.random() >= self.guess:
            ways = [way for way in ways if way.value() == self.chain.value()]
        return ANSWER + rng.choices(ways, [self._held(way, thoughts) for way in ways])[0].expression()

    def _held(self, way: Chain, thoughts: Sequence[Mixture]) -> float:
        """How much the thoughts speak for a way: the product of the weights of its partial results."""
        held = 1.0
        for place, thought in enumerate(thoughts):
            done = max(len(way.terms) - 1 - place, 0)
            held *= thought.get(f"{way.start + sum(way.terms[:done])} ", 0.0) + 1e-4
        return held


@dataclass(frozen=True)
class PathThinker:
    """A path: from the goal backwards, each thought is a node from which the last one is reached."""

    graph: Graph

    def next(self, place: int, last: str | None) -> Mixture:  # noqa: ARG002 - the place does not matter
        """Go back one edge, whichever."""
        nodes = self.graph.before(self.graph.goal if last is None else last.strip())
        return {f"{node} ": 1 / len(nodes) for node in nodes}

    def conclude(self, rng: random.Random, thoughts: Sequence[Mixture]) -> str:
        """State a walk that the thoughts speak for; where none is, walk at random."""
        walks = self.graph.walks()
        return ANSWER + " ".join(rng.choices(walks, [self._held(walk, thoughts) for walk in walks])[0])

    def _held(self, walk: str, thoughts: Sequence[Mixture]) -> float:
        if walk[-1] != self.graph.goal:
            return DOUBT
        held = sum(thought.get(f"{node} ", 0.0) for node, thought in zip(walk[-2::-1], thoughts, strict=True))
        return DOUBT + 20 * held**2


@dataclass(frozen=True)
class ReachThinker:
    """Reachability: forward from the start, and then only what was asked about stays in mind."""

    forest: Forest

    def next(self, place: int, last: str | None) -> Mixture:
        """Go on one edge, whichever; from a leaf, to itself if it was asked about."""
        node = self.forest.start if last is None else last.strip()
        nodes = self.forest.after(node) if place < 2 else [node] if node in self.forest.asked else []
        return {f"{one} ": 1 / len(nodes) for one in nodes}

    def conclude(self, rng: random.Random, thoughts: Sequence[Mixture]) -> str:
        """State the leaves in mind, and of the others the more by chance the fewer were held at once; never all."""
        leaves = thoughts[1]
        doubt = sum(weight**2 for weight in leaves.values()) ** 2 / 2
        chances = [1.0 if leaves.get(f"{node} ", 0.0) > SEEN else doubt for node in self.forest.asked]
        sets = list(product((True, False), repeat=len(chances)))[1:-1]
        odds = [
            prod(chance if stated else 1 - chance for chance, stated in zip(chances, one, strict=True)) for one in sets
        ]
        [kept] = rng.choices(sets, odds)
        return ANSWER + " ".join(node for node, stated in zip(self.forest.asked, kept, strict=True) if stated)


def drawn(rng: random.Random, mixture: Mixture) -> str:
    """Draw one part of a mixture by weight."""
    return rng.choices(list(mixture), list(mixture.values()))[0]


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
