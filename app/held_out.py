"""The held-out prompts, looked at before anything depends on them: there, readable, and with graders.

They are a JSONL file, or problems of the package reasoning-gym: of the validation split unless the source says which.

Server and worker ask this when they start, so that a wrong path is a word to the operator and not a failed update an
hour later. Leaves out what the prompts are to a model, and the exam (`worker.heldout`, `worker.exam`).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.errors import BadRequest
from app.settings import Settings

if TYPE_CHECKING:
    from training.tasks.problem import Problem


def require_held_out(settings: Settings) -> None:
    """Refuse a held-out file that cannot be used; nothing is asked where none is set.

    Raises:
        BadRequest: it is missing, unreadable or empty, or a line is no prompt with a grader; the message says which.

    """
    if settings.heldout is None:
        return
    try:
        generated = gym_problems(settings.heldout, settings.heldout_size)
        asked = generated or list(entries(settings.heldout, settings.heldout_size))
    except OSError as error:
        raise BadRequest(f"LEPO_HELDOUT={settings.heldout} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadRequest(f"LEPO_HELDOUT: {error}") from error
    if not asked:
        raise BadRequest(f"LEPO_HELDOUT={settings.heldout} is empty: give it a line per prompt, or unset it")


def gym_problems(heldout: Path, size: int) -> "tuple[Problem, ...] | None":
    """Make the first `size` problems where the setting names a dataset of reasoning-gym; None where it names a file.

    Raises:
        ValueError: the source is wrong; the message says what to write, or to install.

    """
    from training.tasks.gym import first_of, is_gym, make_problems, parse_source
    from training.tasks.splits import Split

    if not is_gym(str(heldout)):
        return None
    return make_problems(first_of(parse_source(str(heldout), Split.VALIDATION), size))


def entries(path: Path, size: int) -> Iterator[dict[str, Any]]:
    """Read the first `size` entries.

    Raises:
        ValueError: a line is no prompt (or messages) with a grader; the message names file and line.
        OSError: the file cannot be read.

    """
    found = 0
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if found == size:
                return
            if line.strip():
                yield entry(line, f"{path}:{number}")
                found += 1


def entry(line: str, where: str) -> dict[str, Any]:
    """Read one line.

    Raises:
        ValueError: it is no prompt (or messages) with a grader.

    """
    from training.graders.parse import parse_grader

    try:
        found = json.loads(line)
        parse_grader(found["grader"])
        said = found.get("messages") or found["prompt"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where} is not a prompt (or messages) with a grader: {error!r}") from error
    if not said:
        raise ValueError(f"{where} asks nothing")
    assert isinstance(found, dict)
    return found
