"""What tools a request offers, and how far the model is free to call them. Leaves out how requests say it (the API)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools of one request. Example: `Toolbox(({"type": "function", "function": {"name": "add"}},))`."""

    tools: tuple[Mapping[str, Any], ...] = ()  # in the chat API's form: type and function
    choice: Literal["none", "auto", "required"] = "auto"  # whether the answer may, or must, be calls
    named: str | None = None  # with "required": the one tool it must call
    parallel: bool = True  # whether it may hold several calls

    @property
    def offered(self) -> tuple[Mapping[str, Any], ...]:
        """The tools the model is told of."""
        return () if self.choice == "none" else self.tools

    @property
    def names(self) -> frozenset[str]:
        """Names that the answer may call."""
        return frozenset(tool["function"]["name"] for tool in self.offered)


NO_TOOLS = Toolbox()
