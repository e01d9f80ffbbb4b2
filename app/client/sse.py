"""A streamed chat completion, line by line: pieces of text, then the answers as they are committed."""

import json
from dataclasses import dataclass, field
from typing import Any

from app.client.errors import LepoRefused
from app.client.shapes import Answer, Text, read_answer

SAID_ALL = "[DONE]"


@dataclass(slots=True)
class Reader:
    """What one stream has said by now."""

    request_id: str | None
    _texts: dict[int, list[str]] = field(default_factory=dict)

    def line(self, line: str) -> list[Text | Answer]:
        """Read one line of the stream.

        Raises:
            LepoRefused: the service gave up in the middle.

        """
        if not line.startswith("data:"):
            return []
        said = line.removeprefix("data:").strip()
        if said == SAID_ALL:
            return []
        chunk: dict[str, Any] = json.loads(said)
        if "error" in chunk:
            raise LepoRefused(200, chunk, self.request_id)
        return [news for choice in chunk["choices"] for news in self._choice(choice)]

    def _choice(self, choice: dict[str, Any]) -> list[Text | Answer]:
        news: list[Text | Answer] = []
        index, text = choice["index"], choice["delta"].get("content")
        if text:
            self._texts.setdefault(index, []).append(text)
            news.append(Text(index, text))
        if choice.get("finish_reason") is not None:
            whole = "".join(self._texts.pop(index, []))
            news.append(read_answer({**choice, "message": {"content": whole}}))
        return news
