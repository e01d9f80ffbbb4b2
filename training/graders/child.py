"""The child process that runs gradings which can hang: math-verify and fuzzy matching.

Started by its path, alone, so it imports nothing of ours; says when it is ready, reads one JSON request per line and
writes one JSON reply per line. Its parent kills it when it overruns (see `children`), so no alarm is set here:
math-verify's own needs the main thread's SIGALRM and cannot interrupt C code. An error it does not expect ends it,
which its parent reports.
"""

import json
import logging
import os
import resource
import sys
from difflib import SequenceMatcher
from typing import Any

from math_verify import parse, verify

MEMORY_BYTES = 2 << 30  # address space; an expression that explodes ends the child, not the machine
DELIMITERS = ("$", "\\(", "\\[", "\\boxed")
COMPARISON_ERRORS = (ArithmeticError, AttributeError, LookupError, NotImplementedError, RecursionError, TypeError)


def judge_math(request: dict[str, Any]) -> dict[str, Any]:
    """Compare an answer with the gold by math-verify, the gold first: the comparison is not symmetric.

    Reply: {"failed": why} where the gold cannot be parsed or the two cannot be compared, else {"value", "detail"}.
    """
    gold_text, answer_text = request["reference"], request["answer"]
    if not any(delimiter in gold_text for delimiter in DELIMITERS):
        gold_text = f"${gold_text}$"  # bare LaTeX; unwrapped, only its digits would be read
    gold = parse(gold_text, fallback_mode="no_fallback", parsing_timeout=None)
    if not gold:
        return {"failed": "the reference cannot be parsed as mathematics; correct the task"}
    answer = parse(answer_text, fallback_mode="no_fallback", parsing_timeout=None)
    if not answer:
        return {"value": 0.0, "detail": "the answer holds no mathematics that can be parsed"}
    try:
        right = verify(gold, answer, float_rounding=request["precision"], timeout_seconds=None, raise_on_error=True)
    except (*COMPARISON_ERRORS, ValueError) as error:
        return {"failed": f"the answer cannot be compared with the reference: {type(error).__name__}"}
    return {"value": float(right), "detail": f"compared with {request['reference'][:200]}"}


def judge_similarity(request: dict[str, Any]) -> dict[str, Any]:
    """Return the fuzzy match ratio in [0, 1]: twice the matching characters over all characters (difflib)."""
    matcher = SequenceMatcher(None, request["reference"], request["answer"], autojunk=False)
    return {"value": matcher.ratio(), "detail": "fuzzy_match"}


JUDGES = {"math": judge_math, "fuzzy_match": judge_similarity}


def serve() -> None:
    """Answer requests until the parent closes the pipe."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.disable(logging.CRITICAL)
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    reply: dict[str, Any] = {"ready": True}
    print(json.dumps(reply), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        reply = JUDGES[request["judge"]](request)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    serve()
