"""Print what pyproject.toml requires, one requirement a line: its dependencies, and those of the extras named.

    python requirements.py large,lora

The images install this list before they see any code, so that a changed line of code costs seconds. Reads
pyproject.toml beside the working directory; needs nothing but Python 3.11. Leaves out versions (constraints.txt).
"""

import re
import sys
import tomllib
from pathlib import Path


def requirements(project: dict, extras: list[str]) -> list[str]:
    """Collect the dependencies, and those of extras; an extra may name others of the same project."""
    own = re.compile(re.escape(project["name"]) + r"\[([^]]+)\]")
    found = list(project["dependencies"])
    waiting, seen = list(extras), set()
    while waiting:
        extra = waiting.pop()
        if extra in seen:
            continue
        seen.add(extra)
        for requirement in project["optional-dependencies"][extra]:
            inner = own.fullmatch(requirement)
            if inner:
                waiting += [name.strip() for name in inner[1].split(",")]
            else:
                found.append(requirement)
    return sorted(set(found))


if __name__ == "__main__":
    document = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    wanted = [name.strip() for name in sys.argv[1].split(",") if name.strip()]
    print("\n".join(requirements(document["project"], wanted)))  # noqa: T201 - that is what it is for
