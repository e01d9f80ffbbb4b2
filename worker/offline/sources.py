"""Where problems come from: a file of ours, a known data set in a local file or directory, or the hub by name.

    problems.jsonl                     prompt, answer, grader per line (`training.tasks.jsonl`)
    gsm8k:/data/test.parquet           one file in that data set's layout: .jsonl, .json or .parquet
    gsm8k:test:/data/gsm8k             a split in a directory that looks like the repository
    gsm8k:test                         a split from the hub, or from its cache when offline
    export:answers.jsonl               what `lepo data export` wrote: the questions that came with a grader
    reasoning_gym:chain_sum:size=2000  problems of that package (`training.tasks.gym`)

Leaves out the layouts themselves (`training.tasks.layouts`).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import BadRequest
from app.held_out_lines import normal
from training.tasks.gym import is_gym, make_problems, parse_source
from training.tasks.jsonl import read_problems
from training.tasks.layouts import LAYOUTS, Layout, read_dataset, split_files
from training.tasks.problem import Problem
from training.tasks.splits import Split
from worker.offline.exported import read_exported

SHOWN = 3  # problems of an overlap that the message quotes


@contextmanager
def told() -> Iterator[None]:
    """Tell what a caller can mend (a wrong row, a missing file, a missing model) in words, without a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise BadRequest(str(error)) from error


def read_source(source: str, split: Split = Split.TRAIN) -> list[Problem]:
    """Read problems from where `source` says, in order.

    Args:
        source: see the top of this file.
        split: of a generated source that names none; what lies in files is read as it is.

    Raises:
        BadRequest: there is nothing to read, a row is wrong, or the hub is out of reach; the message says what to do.

    """
    name, _, where = source.partition(":")
    with told():
        if is_gym(source):
            problems = list(make_problems(parse_source(source, split)))
        elif name == "export":
            problems = read_exported(_file(where))
        else:
            problems = _known(LAYOUTS[name], where) if name in LAYOUTS else read_problems(_file(source))
    if not problems:
        raise BadRequest(f"{source} holds no problems: give it a line per problem")
    return problems


def require_apart(learned: Iterable[Problem], asked: Iterable[Problem], what: str) -> None:
    """Refuse to measure on what was learned from. Case and spacing of prompts do not matter.

    Raises:
        BadRequest: a prompt is in both; the message counts them and quotes a few.

    """
    known = {normal(problem.prompt) for problem in learned}
    both = [problem.prompt for problem in asked if normal(problem.prompt) in known]
    if both:
        quoted = "; ".join(repr(prompt[:80]) for prompt in both[:SHOWN])
        raise BadRequest(
            f"{len(both)} problems of {what} are in the training data too ({quoted}): take them out of one of the two"
        )


def _file(source: str) -> Path:
    path = Path(source).expanduser()
    if not path.is_file():
        raise ValueError(
            f"no file at '{source}': give a .jsonl file with prompt, answer and grader per line, or a data set "
            f"({', '.join(LAYOUTS)}) as NAME:SPLIT or NAME:FILE, or reasoning_gym:NAME"
        )
    return path


def _known(layout: Layout, where: str) -> list[Problem]:
    """Read a data set from a file, a directory, or the hub."""
    split, _, place = where.partition(":")
    if split not in layout.splits:
        if Path(where).expanduser().is_file():
            return read_dataset(layout, Path(where).expanduser())
        raise ValueError(
            f"'{layout.name}:{where}' names neither a file nor a split: give {layout.name}:FILE or one of "
            + ", ".join(f"{layout.name}:{each}" for each in layout.splits)
        )
    directory = Path(place).expanduser() if place else fetch(layout)
    files = split_files(layout, directory, split)
    if not files:
        raise ValueError(f"no {split} files (.parquet or .jsonl) of {layout.repository} in '{directory}'")
    found = {problem.prompt: problem for path in files for problem in read_dataset(layout, path)}
    return list(found.values())


def fetch(layout: Layout) -> Path:
    """Bring a data set's files here, or find them in the hub's cache.

    Raises:
        ValueError: the hub is out of reach and the cache does not hold it.

    """
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(layout.repository, repo_type="dataset", allow_patterns=["*.parquet", "*.jsonl"]))
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError) as error:
        raise ValueError(
            f"cannot get {layout.repository} from the hub, and its cache does not hold it: go online (and unset "
            f"HF_HUB_OFFLINE), or download it elsewhere and give {layout.name}:FILE"
        ) from error
