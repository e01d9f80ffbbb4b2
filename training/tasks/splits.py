"""Which split a problem belongs to, decided by the problem itself.

The split is a function of the problem's canonical text, not of a seed or an order of generation,
so no seed can ever put a test problem into training data. Leaves out generation (see `families`).
"""

import hashlib
from enum import StrEnum


class Split(StrEnum):
    """The three splits; every problem is in exactly one."""

    TRAIN = "train"  # 80% of all problems: learned from
    VALIDATION = "validation"  # 10%: settings are chosen on it
    TEST = "test"  # 10%: looked at last, never learned from


def split_of(family: str, canonical: str) -> Split:
    """Return the split of the problem that `canonical` names within `family`.

    Two problems that ask the same must have the same canonical text; then they cannot land in different splits.
    """
    digest = hashlib.sha256(f"{family}\n{canonical}".encode()).digest()
    bucket = int.from_bytes(digest[:8], "big") % 10
    if bucket == 9:
        return Split.TEST
    if bucket == 8:
        return Split.VALIDATION
    return Split.TRAIN
