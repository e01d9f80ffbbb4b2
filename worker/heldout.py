"""The held-out prompts a candidate is examined on, and the promise that nobody learns from them.

Read from JSONL, one `{"prompt": ...}` or `{"messages": [...]}` with a `"grader"` per line; a prompt is what a user
says, so it goes through the chat template like a message. Leaves out the asking (`worker.exam`) and the judging
(`training.gate`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from training.chat import render_chat
from training.graders.parse import parse_grader

Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the exam."""

    said: str  # what the user says, without the chat template
    prompt_ids: tuple[int, ...]  # as the model sees it; at least one token id
    grader: Mapping[str, Any]  # a spec `training.graders.parse_grader` accepts


@dataclass(frozen=True, slots=True)
class HeldOut:
    """All questions, in the file's order."""

    questions: tuple[Question, ...]
    digest: str  # SHA-256 of prompts and graders, hexadecimal: outcomes of two different sets are never compared
    said: frozenset[str]  # what users say in them, normalised
    prompts: frozenset[tuple[int, ...]]  # the same as the model sees it

    def holds(self, request: Mapping[str, Any], prompt_ids: Sequence[int]) -> bool:
        """Whether a request asks one of the questions: token for token, or in its prompt or any of its messages."""
        return tuple(prompt_ids) in self.prompts or any(normal(text) in self.said for text in texts_of(request))


def read_heldout(path: Path, size: int, tokenizer: PreTrainedTokenizerBase) -> HeldOut:
    """Read the first `size` questions.

    Raises:
        ValueError: a line is not what it should be; the message names file and line.
        OSError: the file cannot be read.

    """
    questions: list[Question] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if len(questions) == size:
                break
            if line.strip():
                questions.append(_question(line, f"{path}:{number}", tokenizer))
    if not questions:
        raise ValueError(f"{path} holds no held-out prompts: give it a line per prompt, or unset LEPO_HELDOUT")
    return HeldOut(
        questions=tuple(questions),
        digest=_digest(questions),
        said=frozenset(normal(question.said) for question in questions),
        prompts=frozenset(question.prompt_ids for question in questions),
    )


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
        said = texts_of({"messages": messages})[-1]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{where} is not a prompt (or messages) with a grader: {error}") from error
    ids = tuple(render_chat(tokenizer, messages)) if tokenizer.chat_template else tuple(tokenizer.encode(said))
    if not ids:
        raise ValueError(f"{where} is empty once it is tokenized: write a prompt")
    return Question(said, ids, grader)


def _digest(questions: Sequence[Question]) -> str:
    facts = [[question.prompt_ids, dict(question.grader)] for question in questions]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def normal(text: str) -> str:
    """Write a text so that case and spacing do not matter."""
    return " ".join(text.split()).casefold()
