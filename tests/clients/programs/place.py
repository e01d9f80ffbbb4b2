"""Where a program finds the server, and what several programs ask for."""

from dataclasses import dataclass
from typing import Any, Final, Literal

import httpx
from pydantic import BaseModel

MODEL: Final = "lepo"
QUESTION: Final = "What is 2 + 3"
ASKED: Final[list[Any]] = [{"role": "user", "content": QUESTION}]
TURN: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "turn",
        "description": "Turn the boat.",
        "parameters": {
            "type": "object",
            "properties": {"way": {"type": "string", "enum": ["north", "south"]}},
            "required": ["way"],
            "additionalProperties": False,
        },
    },
}


class Boat(BaseModel):
    """A boat, as a structured answer."""

    colour: Literal["red", "blue"]
    masts: Literal["1", "2"]


@dataclass(frozen=True, slots=True)
class Place:
    """The server, and what a client needs beside it."""

    url: str  # of the server, without /v1
    key: str  # may infer and grade
    model_dir: str  # the model and its tokenizer, in the Hugging Face layout
    scratch: str  # an empty directory

    @property
    def v1(self) -> str:
        """The base URL that OpenAI's clients are given."""
        return f"{self.url}/v1"

    def grade(self, answer_id: str) -> None:
        """Grade an answer by the id that a client showed."""
        found = httpx.post(
            f"{self.v1}/interactions/{answer_id}/grades",
            json={"value": 1.0},
            headers={"Authorization": f"Bearer {self.key}"},
        )
        assert found.status_code == 201, found.text
