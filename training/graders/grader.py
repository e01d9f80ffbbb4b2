"""What every grader offers: an identity for the ledger, and a verdict on an answer.

Leaves out parsing (see `parse`) and the graders themselves.
"""

from typing import Protocol

from training.graders.verdict import Verdict


class Grader(Protocol):
    """A judge of answers. `kind`, `name` and `version` go into the ledger with each grade."""

    @property
    def kind(self) -> str:
        """The spec's `type`."""

    @property
    def name(self) -> str:
        """The spec's `name`, or the kind."""

    @property
    def version(self) -> str:
        """Changes whenever the same answer could get another verdict."""

    def grade(self, answer: str, deadline_s: float) -> Verdict:
        """Judge the answer within `deadline_s` seconds (> 0); overrunning is `Failed`."""
