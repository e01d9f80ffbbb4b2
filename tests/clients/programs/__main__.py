"""Does everything of one program, and writes what came of it: `python -m tests.clients.programs NAME PLACE OUT`.

PLACE is a JSON file with the fields of `Place`; OUT becomes one with the package's version and, for each thing done,
"ok" or the error. A thing that fails keeps nothing else from being done.
"""

import importlib
import importlib.metadata
import json
import sys
import traceback
from pathlib import Path

from tests.clients.programs.place import Place


def main(name: str, place_file: str, out: str) -> None:
    """Do it."""
    program = importlib.import_module(f"tests.clients.programs.{name}")
    place = Place(**json.loads(Path(place_file).read_text()))
    results = {}
    for what, do in program.DOINGS.items():
        try:
            do(place)
        except Exception as error:  # noqa: BLE001 - whatever a client raises is the result
            traceback.print_exc()
            results[what] = f"{type(error).__name__}: {error}"
        else:
            results[what] = "ok"
    version = importlib.metadata.version(program.PACKAGE)
    Path(out).write_text(json.dumps({"version": version, "results": results}))


if __name__ == "__main__":
    main(*sys.argv[1:])
