"""The child process that runs gradings which can hang, or that hand an answer to somebody else's code.

Started by its path, alone, so it imports nothing of ours; its argument is the path of a file whose `judges()` it
serves (see `child_math`, `child_gym`). Says when it is ready, reads one JSON request per line and writes one JSON reply
per line. Its parent kills it when it overruns (see `children`), so no alarm is set here: math-verify's own needs the
main thread's SIGALRM and cannot interrupt C code. An error it does not expect ends it, which its parent reports.
"""

import json
import logging
import os
import resource
import runpy
import sys
from collections.abc import Callable, Mapping
from typing import Any

Judge = Callable[[dict[str, Any]], dict[str, Any]]  # a request to its reply

MEMORY_BYTES = 2 << 30  # address space; an expression that explodes ends the child, not the machine


def serve(judges: Mapping[str, Judge]) -> None:
    """Answer requests until the parent closes the pipe; each names its judge."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.disable(logging.CRITICAL)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    reply: dict[str, Any] = {"ready": True}
    print(json.dumps(reply), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        reply = judges[request["judge"]](request)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    serve(runpy.run_path(sys.argv[1])["judges"]())
