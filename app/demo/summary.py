"""What the demo claims at the end, and whether it holds."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from rich.table import Table

from app.demo.scene import Claims

WHERE: Final = MappingProxyType(
    {
        "answer": "at the start of every answer",
        "thinking": "in the thinking part of every answer",
        "preamble": "in a preamble to every answer",
    }
)


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of one run; `summary.json` holds exactly these."""

    model: str  # as LEPO_MODEL
    accuracy_before: float  # share of test prompts answered right by the base model
    accuracy_before_interval: tuple[float, float]  # Wilson, 95%
    accuracy_after: float  # the same prompts and seeds, by the policy served at the end
    accuracy_after_interval: tuple[float, float]
    exam_prompts: int  # held-out prompts of each exam, never trained on
    updates: int  # LEPO updates whose checkpoint passed the gate and was promoted
    updates_refused: int  # updates that the gate or a guard turned down
    swaps: int  # times the serving process took new weights while answering
    requests: int  # chat completions asked
    answers: int  # choices received
    failed: int  # HTTP calls that did not end well
    grades: int  # grades in the ledger
    grades_by_clients: int  # of these, posted by the users
    grades_by_server: int  # of these, given by graders named in requests
    learned: int  # answers that entered a promoted update, each at most once
    skipped: dict[str, int]  # answers that were not learned from, by reason
    policy_version: int  # served at the end
    latent_length: int
    latent_placement: str  # where the latent steps of an answer sit
    seconds: float  # from the first process started to the last figure, packages already installed

    def shortfalls(self, claims: Claims) -> list[str]:
        """Say what was claimed and did not hold; nothing when the demo is a success."""
        gain = self.accuracy_after - self.accuracy_before
        checks = (
            (gain >= claims.gain, f"accuracy rose by {gain:.1%}, wanted {claims.gain:.0%} or more"),
            (self.swaps >= claims.swaps, f"{self.swaps} swaps, wanted {claims.swaps} or more"),
            (self.failed == 0, f"{self.failed} calls failed, wanted none"),
            (self.grades_by_clients > 0, "no grade came from a client"),
            (self.grades_by_server > 0, "no grade came from a server-side grader"),
        )
        return [complaint for held, complaint in checks if not held]

    def write(self, path: Path) -> None:
        """Write the figures as one JSON object."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    def table(self, title: str) -> Table:
        """Lay the figures out for people."""
        table = Table(title=title, title_justify="left", show_header=False, min_width=64)
        table.add_column(style="bold")
        table.add_column()
        for name, low_high, value in (
            ("accuracy before", self.accuracy_before_interval, self.accuracy_before),
            ("accuracy after", self.accuracy_after_interval, self.accuracy_after),
        ):
            low, high = low_high
            table.add_row(name, f"{value:.1%}  ({low:.1%} to {high:.1%}), {self.exam_prompts} unseen problems")
        table.add_row("updates", f"{self.updates} promoted, {self.updates_refused} refused")
        table.add_row("swaps while serving", f"{self.swaps}, now at version {self.policy_version}")
        table.add_row("requests", f"{self.requests} for {self.answers} answers, {self.failed} failed")
        table.add_row("grades", f"{self.grades_by_clients} by clients, {self.grades_by_server} by server-side graders")
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(self.skipped.items())) or "none"
        table.add_row("learned from", f"{self.learned} answers, each once; skipped: {reasons}")
        where = f"{self.latent_length} {WHERE[self.latent_placement]}" if self.latent_length else "none"
        table.add_row("latent steps", where)
        table.add_row("seconds", f"{self.seconds:.0f}")
        return table
