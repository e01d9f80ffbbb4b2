"""The held-out prompts of the settings, looked at before anything depends on them: there, readable, and with graders.

They are a JSONL file, or problems of the package reasoning-gym: of the validation split unless the source says which.

Server and worker ask this when they start, so that a wrong path is a word to the operator and not a failed update an
hour later. Leaves out what a line is (`app.held_out_lines`), sets that are uploaded, which go before these
(`app.store.held_out`), and the asking (`worker.gate`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import BadRequest
from app.held_out_lines import Entry, read_entries
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


def entries(path: Path, size: int) -> Iterator[Entry]:
    """Read the first `size` entries of a file.

    Raises:
        ValueError: a line is no prompt (or messages) with a grader; the message names file and line.
        OSError: the file cannot be read.

    """
    with path.open(encoding="utf-8") as lines:
        for _, entry in read_entries(lines, f"{path}:", size):
            yield entry
