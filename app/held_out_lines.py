"""Lines of held-out prompts: read, refused by name where they are wrong, and which of them are sealed.

A line is `{"prompt": ...}` or `{"messages": [...]}` with a `"grader"`. The same reader for a file that a setting names,
for what an operator uploads, and for the gate that asks them, so that what is taken can be asked. Leaves out where the
lines come from (`app.held_out`, `app.store.held_out`) and the asking (`worker.gate`).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from app.settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from training.placement import Placement

FEW: Final = 20  # a set with fewer prompts is not divided: all of it is the gate's


@dataclass(frozen=True, slots=True)
class Entry:
    """One line."""

    messages: list[dict[str, Any]]  # at least one; a prompt is what a user says
    said: str  # what is said last, without the chat template; not empty
    grader: Mapping[str, Any]  # a spec `training.graders.parse_grader` accepts


def read_entries(lines: Iterable[str], place: str, size: int) -> Iterator[tuple[str, Entry]]:
    """Read the first `size` entries, each with where it stands; empty lines are passed over.

    Args:
        lines: of a file, or of what was uploaded.
        place: what goes before a line's number in words, such as `heldout.jsonl:`.
        size: most that are read.

    Raises:
        ValueError: a line is no prompt (or messages) with a grader; the message names it.

    """
    found = 0
    for number, line in enumerate(lines, start=1):
        if found == size:
            return
        if line.strip():
            where = f"{place}{number}"
            yield where, read_entry(line, where)
            found += 1


def read_entry(line: str, where: str) -> Entry:
    """Read one line.

    Raises:
        ValueError: it is no prompt (or messages) with a grader.

    """
    from training.graders.parse import parse_grader

    try:
        found = json.loads(line)
        grader = found["grader"]
        messages = found.get("messages") or [{"role": "user", "content": found["prompt"]}]
        parse_grader(grader)
        texts = texts_of({"messages": messages})
        said = texts[-1]
        "".join(texts).encode()  # half of a surrogate pair is no text
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        words = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{where} is not a prompt (or messages) with a grader: {words}") from error
    if not said:
        raise ValueError(f"{where} asks nothing")
    return Entry(messages, said, grader)


def ids_of(entry: Entry, where: str, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Write what a user says as the model sees it.

    Raises:
        ValueError: the model's chat template refuses it, or nothing is left of it.

    """
    from training.models.chat import render_chat

    try:
        ids = tuple(render_chat(tokenizer, entry.messages) if tokenizer.chat_template else tokenizer.encode(entry.said))
    except ValueError as error:
        raise ValueError(f"{where} cannot be asked: {error}") from error
    if not ids:
        raise ValueError(f"{where} is empty once it is tokenized: write a prompt")
    return ids


def room_for(said: str, prompt_tokens: int, settings: Settings, placement: "Placement") -> int:
    """Count the positions left for the answer to a held-out prompt, latent steps among them.

    Args:
        said: the prompt, for the words of a refusal.
        prompt_tokens: its length as the model sees it.
        settings: of service.
        placement: of the latent steps of a request that does not say.

    Raises:
        ValueError: there is no room for an answer.

    """
    latent = min(settings.latent_length, settings.max_completion_tokens - 1)
    room = settings.max_length - prompt_tokens - (placement.size if latent else 0)
    if room <= latent:
        raise ValueError(
            f"the held-out prompt {said[:60]!r} has {prompt_tokens} tokens, which leaves no room for an answer: "
            "shorten it or raise LEPO_MAX_LENGTH"
        )
    return room


def sealed_of(said: Sequence[str], share: float) -> list[bool]:
    """Say of each prompt of a set whether it is sealed: by its text alone, and none where there are few."""
    digests = [hashlib.sha256(normal(text).encode()).digest() for text in said]
    return [len(said) >= FEW and int.from_bytes(digest[:4]) < share * 2**32 for digest in digests]


def texts_of(request: Mapping[str, Any]) -> list[str]:
    """Texts a caller sent: the prompt or prompts, or the content of each message, text parts included."""
    prompt = request.get("prompt")
    texts = [prompt] if isinstance(prompt, str) else [text for text in prompt or () if isinstance(text, str)]
    for message in request.get("messages") or ():
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        texts += [part["text"] for part in parts if isinstance(part.get("text"), str)]
    return texts


def normal(text: str) -> str:
    """Write a text so that case and spacing do not matter."""
    return " ".join(text.split()).casefold()
