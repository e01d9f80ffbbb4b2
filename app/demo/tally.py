"""What the simulated users did, counted where it happens."""

from dataclasses import dataclass, field

MAX_ERRORS_KEPT = 20


@dataclass
class Tally:
    """Counts that grow while the demo runs; one event loop writes them."""

    requests: int = 0  # chat completions asked
    answers: int = 0  # choices received whole
    client_grades: int = 0  # grades posted and acknowledged
    failed: int = 0  # HTTP calls that did not end well, of any kind
    errors: list[str] = field(default_factory=list)  # the first few, in words

    def fail(self, what: str) -> None:
        """Count a failure and keep its description."""
        self.failed += 1
        if len(self.errors) < MAX_ERRORS_KEPT:
            self.errors.append(what)
