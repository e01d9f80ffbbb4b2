"""The held-out prompts: a part the gate asks, a sealed part it never asks; and nobody learns from either.

Beside them the gate may ask regression prompts, which were learned from: what was corrected once must stay right.

Made from a dataset of reasoning-gym, or read from lines (`app.held_out_lines`) of a file or of what was uploaded; a
prompt is what a user says, so it goes through the chat template like a message. Whether a prompt is sealed follows from
its text, so it stays sealed or open when lines are added. Leaves out which set is asked (`worker.gate.comparison`), the
asking (`worker.gate.evaluation`) and the judging (`worker.gate.look`).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from app.held_out import gym_problems
from app.held_out_lines import Entry, ids_of, normal, read_entries, sealed_of, texts_of

Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Question:
    """One held-out prompt."""

    said: str  # what the user says, without the chat template
    prompt_ids: tuple[int, ...]  # as the model sees it; at least one token id
    grader: Mapping[str, Any]  # a spec `training.graders.parse_grader` accepts

    @property
    def key(self) -> str:
        """Name of the question in records of evaluations: it changes when the prompt or the grader does."""
        facts = json.dumps([self.prompt_ids, dict(self.grader)], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class EvaluationSet:
    """All held-out prompts."""

    questions: Mapping[str, Question]  # the gate's, by key, in the file's order, then regression prompts
    sealed: Mapping[str, Question]  # never asked by the gate, so that no version was chosen by them
    said: frozenset[str]  # what users say in all of the file's, normalised
    prompts: frozenset[tuple[int, ...]]  # the same as the model sees it
    source: str = ""  # what was read: a file, a dataset, or a version of what was uploaded

    def holds(self, request: Mapping[str, Any], prompt_ids: Sequence[int]) -> bool:
        """Whether a request asks one of the prompts: token for token, or in its prompt or any of its messages."""
        return tuple(prompt_ids) in self.prompts or any(normal(text) in self.said for text in texts_of(request))


def evaluation_set(
    questions: Iterable[Question], sealed_share: float, always_open: Iterable[Question] = (), *, source: str = ""
) -> EvaluationSet:
    """Divide held-out prompts.

    Args:
        questions: those of the file; one that stands there twice counts once.
        sealed_share: share that is sealed, in [0, 1).
        always_open: regression prompts (corrections that were learned from): the gate asks them like the file's, but
            they are not held out.
        source: what was read, in words.

    """
    found = {question.key: question for question in questions}
    secret = sealed_of([one.said for one in found.values()], sealed_share)
    sealed = {key: one for (key, one), kept in zip(found.items(), secret, strict=True) if kept}
    asked = {key: one for key, one in found.items() if key not in sealed}
    asked |= {one.key: one for one in always_open if one.key not in found}
    return EvaluationSet(
        questions=asked,
        sealed=sealed,
        said=frozenset(normal(question.said) for question in found.values()),
        prompts=frozenset(question.prompt_ids for question in found.values()),
        source=source,
    )


def read_evaluation_set(
    path: Path,
    size: int,
    tokenizer: PreTrainedTokenizerBase,
    sealed_share: float = 0.0,
    regressions: Iterable[Question] = (),
) -> EvaluationSet:
    """Read the first `size` prompts, and divide them.

    Args:
        path: of the JSONL file, or the name of a dataset of reasoning-gym (`app.held_out`).
        size: most prompts read, > 0.
        tokenizer: of the model that is to answer.
        sealed_share: share of them the gate never asks, in [0, 1).
        regressions: prompts the gate asks besides.

    Raises:
        ValueError: a line is not what it should be; the message names file and line.
        OSError: the file cannot be read.

    """
    generated = gym_problems(path, size)
    if generated is not None:
        asked = [([{"role": "user", "content": one.prompt}], one.grader) for one in generated]
        made = [question_of(messages, grader, str(path), tokenizer) for messages, grader in asked]
        return evaluation_set(made, sealed_share, regressions, source=str(path))
    with path.open(encoding="utf-8") as lines:
        questions = read_questions(lines, f"{path}:", size, tokenizer)
    if not questions:
        raise ValueError(f"{path} holds no held-out prompts: give it a line per prompt, or unset LEPO_HELDOUT")
    return evaluation_set(questions, sealed_share, regressions, source=str(path))


def read_questions(lines: Iterable[str], place: str, size: int, tokenizer: PreTrainedTokenizerBase) -> list[Question]:
    """Read the first `size` prompts of a file, or of what was uploaded.

    Raises:
        ValueError: a line is not what it should be; the message names it, behind `place`.

    """
    return [
        Question(entry.said, ids_of(entry, where, tokenizer), entry.grader)
        for where, entry in read_entries(lines, place, size)
    ]


def question_of(
    messages: Messages, grader: Mapping[str, Any], where: str, tokenizer: PreTrainedTokenizerBase
) -> Question:
    """Write what a user says as the model sees it."""
    entry = Entry(messages, texts_of({"messages": messages})[-1], grader)
    return Question(entry.said, ids_of(entry, where, tokenizer), grader)
