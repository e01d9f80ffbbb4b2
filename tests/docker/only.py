"""Runs a command of ours where some packages cannot be imported: `python only.py '["torch", ...]' lepo-arguments...`.

A program of its own, started by tests: what an image lacks must be lacking from the first import on.
"""

import json
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any


def without(names: set[str]) -> type[PathFinder]:
    """Make a finder that does not find these top-level modules."""

    class Finder(PathFinder):
        @classmethod
        def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
            return None if fullname.partition(".")[0] in names else super().find_spec(fullname, path, target)

    return Finder


if __name__ == "__main__":
    missing = set(json.loads(sys.argv[1]))
    for loaded in [name for name in sys.modules if name.partition(".")[0] in missing]:
        del sys.modules[loaded]  # an interpreter's own start brings some in
    sys.meta_path = [without(missing) if finder is PathFinder else finder for finder in sys.meta_path]
    from app.cli import build

    build()(sys.argv[2:], prog_name="lepo")
