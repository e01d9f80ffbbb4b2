"""The exam: a policy answers the held-out questions on the settings of service, and graders mark the answers.

Seeds belong to the questions, so two policies meet the same noise and their marks pair up. Marks are kept with the
checkpoint (`evaluations`), so each version sits the exam once. Leaves out the verdict (`training.gate`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.request import Request
from app.settings import Settings
from app.store.tables import Evaluation
from training.graders.parse import parse_grader
from training.graders.verdict import Graded
from training.policy import Policy
from training.sampling import Sampling
from worker.heldout import HeldOut, Question

RIGHT: Final = 0.5  # a mark from here on counts as a right answer
FIRST_SEED: Final = 7_001  # question i is answered with seed FIRST_SEED + i


@dataclass(frozen=True, slots=True)
class Marks:
    """How a policy did, question by question."""

    outcomes: tuple[float | None, ...]  # in [0, 1], in the order of the questions; None: its grader gave no grade
    paper: Mapping[str, Any]  # which questions under which settings: only equal papers are compared

    @property
    def marked(self) -> list[float]:
        """The outcomes there are."""
        return [outcome for outcome in self.outcomes if outcome is not None]

    @property
    def correct(self) -> int:
        """Questions answered right."""
        return sum(outcome >= RIGHT for outcome in self.marked)


def paper_of(heldout: HeldOut, settings: Settings) -> dict[str, Any]:
    """Describe an exam: its questions and how they are answered; JSON."""
    return {
        "heldout": heldout.digest,
        "first_seed": FIRST_SEED,
        "max_new": settings.max_completion_tokens,
        "max_length": settings.max_length,
        "sampling": asdict(sampling_of(settings)),
    }


def sit(policy: Policy, heldout: HeldOut, settings: Settings, progress: Callable[[int], None] | None = None) -> Marks:
    """Have the policy answer every question once, and mark the answers.

    Args:
        policy: its model is read, not changed.
        heldout: at least one question.
        settings: the defaults of service: latent length, tau, temperature, filters, answer budget.
        progress: told how many answers are done; what it raises ends the exam.

    """
    requests = [question_request(question, index, settings) for index, question in enumerate(heldout.questions)]
    engine = Engine(policy, EngineConfig.from_settings(settings))
    try:
        answers = engine.generate(requests, progress)
    finally:
        engine.close(0.0)
    texts = [finished[0].text for finished in answers]
    return Marks(tuple(mark(heldout.questions, texts, settings.grader_timeout)), paper_of(heldout, settings))


def mark(questions: Sequence[Question], answers: Sequence[str], deadline_s: float) -> list[float | None]:
    """Grade answers. A grader that fails, or has no opinion, leaves None: never a zero."""
    verdicts = [
        parse_grader(question.grader).grade(answer, deadline_s)
        for question, answer in zip(questions, answers, strict=True)
    ]
    return [verdict.value if isinstance(verdict, Graded) else None for verdict in verdicts]


def pairs(before: Marks, after: Marks) -> tuple[list[float], list[float]]:
    """Outcomes of the questions that were marked both times, in order."""
    assert before.paper == after.paper, "marks of two different exams cannot be paired"
    both = [
        (old, new)
        for old, new in zip(before.outcomes, after.outcomes, strict=True)
        if old is not None and new is not None
    ]
    return [old for old, _ in both], [new for _, new in both]


def recorded(evaluations: Sequence[Evaluation], paper: Mapping[str, Any]) -> Marks | None:
    """Find the marks of an exam among a checkpoint's evaluations."""
    for row in evaluations:
        detail = row.detail or {}
        if detail.get("paper") == paper:
            return Marks(tuple(detail["outcomes"]), paper)
    return None


def detail_of(marks: Marks) -> dict[str, Any]:
    """Write marks as `recorded` reads them."""
    return {"paper": dict(marks.paper), "outcomes": list(marks.outcomes), "unmarked": marks.outcomes.count(None)}


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


def question_request(question: Question, index: int, settings: Settings) -> Request:
    """Ask a question the way a client would who sets nothing but the seed.

    Raises:
        ValueError: the question does not fit the engine.

    """
    room = settings.max_length - len(question.prompt_ids)
    first = sampling_of(settings)
    if room <= first.latent_length:
        raise ValueError(
            f"held-out question {index + 1} has {len(question.prompt_ids)} tokens, which leaves no room for an answer: "
            "shorten it or raise LEPO_MAX_LENGTH"
        )
    return Request(
        prompt_ids=question.prompt_ids,
        sampling=replace(first, seed=FIRST_SEED + index),
        max_new=min(settings.max_completion_tokens, room),
    )
