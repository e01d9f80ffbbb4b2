"""The held-out prompts: a part the gate asks, a sealed part it never asks; and nobody learns from either.

Beside them the gate may ask regression prompts, which were learned from: what was corrected once must stay right.

Made from a dataset of reasoning-gym, or read from JSONL, one `{"prompt": ...}` or `{"messages": [...]}` with a
`"grader"` per line; a prompt is what a user says, so it goes through the chat template like a message. Whether a prompt
is sealed follows from its text, so it stays sealed or open when lines are added. Leaves out the asking
(`worker.gate.evaluation`) and the judging (`worker.gate.look`).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from transformers import PreTrainedTokenizerBase

from app.held_out import gym_problems
from training.graders.parse import parse_grader
from training.models.chat import render_chat

Messages = list[dict[str, Any]]

FEW: Final = 20  # a set with fewer prompts is not divided: all of it is the gate's


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

    def holds(self, request: Mapping[str, Any], prompt_ids: Sequence[int]) -> bool:
        """Whether a request asks one of the prompts: token for token, or in its prompt or any of its messages."""
        return tuple(prompt_ids) in self.prompts or any(normal(text) in self.said for text in texts_of(request))


def evaluation_set(
    questions: Iterable[Question], sealed_share: float, always_open: Iterable[Question] = ()
) -> EvaluationSet:
    """Divide held-out prompts.

    Args:
        questions: those of the file; one that stands there twice counts once.
        sealed_share: share that is sealed, in [0, 1).
        always_open: regression prompts (corrections that were learned from): the gate asks them like the file's, but
            they are not held out.

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
    )


def sealed_of(said: Sequence[str], share: float) -> list[bool]:
    """Say of each prompt of a file whether it is sealed: by its text alone, and none where there are few."""
    digests = [hashlib.sha256(normal(text).encode()).digest() for text in said]
    return [len(said) >= FEW and int.from_bytes(digest[:4]) < share * 2**32 for digest in digests]


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
    questions: list[Question] = []
    generated = gym_problems(path, size)
    if generated is not None:
        asked = [([{"role": "user", "content": one.prompt}], one.grader) for one in generated]
        questions = [question_of(messages, grader, str(path), tokenizer) for messages, grader in asked]
        return evaluation_set(questions, sealed_share, regressions)
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if len(questions) == size:
                break
            if line.strip():
                questions.append(_question(line, f"{path}:{number}", tokenizer))
    if not questions:
        raise ValueError(f"{path} holds no held-out prompts: give it a line per prompt, or unset LEPO_HELDOUT")
    return evaluation_set(questions, sealed_share, regressions)


def texts_of(request: Mapping[str, Any]) -> list[str]:
    """Texts a caller sent: the prompt or prompts, or the content of each message, text parts included."""
    prompt = request.get("prompt")
    texts = [prompt] if isinstance(prompt, str) else [text for text in prompt or () if isinstance(text, str)]
    for message in request.get("messages") or ():
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        texts += [part["text"] for part in parts if isinstance(part.get("text"), str)]
    return texts


def _question(line: str, where: str, tokenizer: PreTrainedTokenizerBase) -> Question:
    """Read one line."""
    try:
        entry = json.loads(line)
        grader = entry["grader"]
        messages = entry.get("messages") or [{"role": "user", "content": entry["prompt"]}]
        parse_grader(grader)
        _ = texts_of({"messages": messages})[-1]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{where} is not a prompt (or messages) with a grader: {error}") from error
    return question_of(messages, grader, where, tokenizer)


def question_of(
    messages: Messages, grader: Mapping[str, Any], where: str, tokenizer: PreTrainedTokenizerBase
) -> Question:
    """Write what a user says as the model sees it."""
    said = texts_of({"messages": messages})[-1]
    ids = tuple(render_chat(tokenizer, messages)) if tokenizer.chat_template else tuple(tokenizer.encode(said))
    if not ids:
        raise ValueError(f"{where} is empty once it is tokenized: write a prompt")
    return Question(said, ids, grader)


def normal(text: str) -> str:
    """Write a text so that case and spacing do not matter."""
    return " ".join(text.split()).casefold()
