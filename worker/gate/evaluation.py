"""An evaluation: a policy answers held-out prompts on the settings of service, and graders score the answers.

What is asked is a plan: items, each a question with a seed. Two policies that answer one plan meet the same questions
and the same noise, so their scores pair up. A plan is made anew for every look of the gate, with new seeds, and goes
round all questions before it asks one again; scores are kept with the version (`evaluations`). Leaves out the decision
(`worker.gate.look`).
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.request import Request
from app.held_out_lines import room_for
from app.placements import placements_of
from app.settings import Settings
from training.graders.parse import parse_grader
from training.graders.verdict import Graded
from training.models.policy import Policy
from training.placement import ANSWER, Placement
from training.sampling import Sampling
from worker.gate.evaluation_set import EvaluationSet, Question

RIGHT: Final = 0.5  # an outcome from here on counts as a right answer
_SEED_BITS: Final = 48


@dataclass(frozen=True, slots=True)
class Item:
    """A question, asked with a seed."""

    question: str  # its key
    seed: int  # of the noise, >= 0


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """What is asked, in order, and how it is answered."""

    name: str  # of the look; scores of one name pair up item by item
    items: tuple[Item, ...]
    conditions: Mapping[str, Any]  # settings of service that decide answers: only equal ones are compared

    def after(self, done: int) -> "EvaluationPlan":
        """Give the rest of the plan, once so many items are answered."""
        return replace(self, items=self.items[done:])


@dataclass(frozen=True, slots=True)
class Scores:
    """How a policy answered a plan, item by item."""

    plan: EvaluationPlan
    outcomes: tuple[float | None, ...]  # in [0, 1]; None: the grader gave no grade
    tokens: tuple[int, ...] = ()  # length of each answer; empty where that was not recorded

    @property
    def graded(self) -> list[float]:
        """The outcomes there are."""
        return [outcome for outcome in self.outcomes if outcome is not None]

    @property
    def correct(self) -> int:
        """Items answered right."""
        return sum(outcome >= RIGHT for outcome in self.graded)

    def __add__(self, more: "Scores") -> "Scores":
        """Go on with the answers to the rest of the same plan."""
        assert (self.plan.name, self.plan.conditions) == (more.plan.name, more.plan.conditions), "two different plans"
        plan = replace(self.plan, items=self.plan.items + more.plan.items)
        return Scores(plan, self.outcomes + more.outcomes, self.tokens + more.tokens)


def conditions_of(settings: Settings, placement: Placement = ANSWER) -> dict[str, Any]:
    """Describe how answers are drawn; JSON."""
    around = [placement.name, list(placement.lead_in_ids), list(placement.lead_out_ids)]
    return {
        "max_new": settings.max_completion_tokens,
        "max_length": settings.max_length,
        "sampling": asdict(sampling_of(settings)),
        **({} if placement == ANSWER else {"placement": around}),
    }


def make_plan(
    name: str, questions: Iterable[str], asked: Iterable[Sequence[str]], size: int, conditions: Mapping[str, Any]
) -> EvaluationPlan:
    """Make a plan with seeds of its own; a longer one of the same name begins with a shorter one.

    Args:
        name: of the look, in which its seeds and order are rooted; never used twice.
        questions: keys of all that may be asked, at least one.
        asked: keys that earlier plans asked, the oldest plan first.
        size: number of items. Beyond the number of questions they are asked again, with other seeds.
        conditions: how answers are drawn.

    """
    everything = list(questions)
    assert everything, "an evaluation set has questions"
    rng, seeds = random.Random(name), random.Random(f"{name}/seeds")  # noqa: S311  no secret
    order = rng.sample(everything, len(everything))
    first = _not_yet_asked(frozenset(everything), asked)
    keys = [key for key in order if key in first]
    keys += [key for key in order if key not in first]
    while len(keys) < size:
        keys += rng.sample(everything, len(everything))
    return EvaluationPlan(name, tuple(Item(key, seeds.getrandbits(_SEED_BITS)) for key in keys[:size]), conditions)


def _not_yet_asked(everything: frozenset[str], asked: Iterable[Sequence[str]]) -> set[str]:
    """Questions that are still to be asked in the current round through all of them."""
    left = set(everything)
    for plan in asked:
        for key in plan:
            left.discard(key)
            if not left:
                left = set(everything)
    return left


def evaluate(
    policy: Policy,
    questions: EvaluationSet | Mapping[str, Question],
    plan: EvaluationPlan,
    settings: Settings,
    progress: Callable[[int], None] | None = None,
) -> Scores:
    """Have the policy answer every item of a plan once, and grade the answers.

    Args:
        policy: its model is read, not changed.
        questions: the gate's, or others by key.
        plan: at least one item.
        settings: the defaults of service: latent length, tau, temperature, filters, answer budget.
        progress: told how many answers are done; what it raises ends the evaluation.

    """
    by_key = questions.questions if isinstance(questions, EvaluationSet) else questions
    asked = [by_key[item.question] for item in plan.items]
    placement = placements_of(settings, policy).of_chat
    goes_on = not policy.tokenizer.chat_template  # as of plain completions: the question is text, not a turn
    requests = [
        replace(question_request(one, item.seed, settings, placement), goes_on=goes_on)
        for one, item in zip(asked, plan.items, strict=True)
    ]
    engine = Engine(policy, EngineConfig.from_settings(settings))
    try:
        finished = [choices[0] for choices in engine.generate(requests, progress)]
    finally:
        engine.close(0.0)
    outcomes = grade_answers(asked, [one.text for one in finished], settings.grader_timeout)
    return Scores(plan, tuple(outcomes), tuple(one.rollout.answer_length for one in finished))


def grade_answers(questions: Sequence[Question], answers: Sequence[str], deadline_s: float) -> list[float | None]:
    """Grade answers. A grader that fails, or has no opinion, leaves None: never a zero."""
    verdicts = [
        parse_grader(question.grader).grade(answer, deadline_s)
        for question, answer in zip(questions, answers, strict=True)
    ]
    return [verdict.value if isinstance(verdict, Graded) else None for verdict in verdicts]


def detail_of(scores: Scores) -> dict[str, Any]:
    """Write scores as `read_scores` reads them; JSON, for the detail of an `evaluations` row."""
    return {
        "plan": scores.plan.name,
        "conditions": dict(scores.plan.conditions),
        "items": [[item.question, item.seed] for item in scores.plan.items],
        "outcomes": list(scores.outcomes),
        "tokens": list(scores.tokens),
        "ungraded": scores.outcomes.count(None),
    }


def read_scores(detail: Mapping[str, Any] | None) -> Scores | None:
    """Read the detail of an `evaluations` row; None where it holds no scores."""
    if not detail or "plan" not in detail or "items" not in detail:
        return None
    items = tuple(Item(str(question), int(seed)) for question, seed in detail["items"])
    plan = EvaluationPlan(str(detail["plan"]), items, detail["conditions"])
    return Scores(plan, tuple(detail["outcomes"]), tuple(detail.get("tokens", ())))


def sampling_of(settings: Settings) -> Sampling:
    """Give the sampling of a request that asks for nothing special."""
    return Sampling(
        latent_length=min(settings.latent_length, settings.max_completion_tokens - 1),
        tau=settings.latent_tau,
        temperature=settings.temperature,
        top_k=min(settings.top_k, settings.max_top_k),
        top_p=settings.top_p,
        draws=settings.latent_draws,
    )


def question_request(question: Question, seed: int, settings: Settings, placement: Placement = ANSWER) -> Request:
    """Ask a question the way a client would who sets nothing but the seed.

    Raises:
        ValueError: the question does not fit the engine.

    """
    first = sampling_of(settings)
    room = room_for(question.said, len(question.prompt_ids), settings, placement)
    return Request(
        prompt_ids=question.prompt_ids,
        sampling=replace(first, seed=seed),
        max_new=min(settings.max_completion_tokens, room),
        placement=placement,
    )
