"""An echoed prompt and, with `logprobs`, how likely the model finds it: what lm-eval's `local-completions` scores by.

Leaves out the scoring itself (`Engine.score`).
"""

from dataclasses import dataclass, replace
from typing import Any

from app.api.answering.ask import Prompt
from app.api.answering.places import of_prompt
from app.api.answering.prompts import PromptReader
from app.api.answering.token_names import TokenNames, completion_logprobs
from app.api.http.rendering import encoded
from app.engine.request import TokenInfo


@dataclass(frozen=True, slots=True)
class Echo:
    """One prompt to be shown before its answers."""

    prompt: Prompt
    scored: tuple[TokenInfo, ...]  # of prompt.ids[1:]; empty when no log-probabilities were asked for
    json: str = "null"  # `logprobs` as a stream shows them, once they are written

    @property
    def text(self) -> str:
        """The prompt's text."""
        return self.prompt.text

    def logprobs(self, reader: PromptReader, names: TokenNames) -> dict[str, Any]:
        """Write the prompt's log-probabilities; its first token has none."""
        places = of_prompt(reader, names, self.prompt)
        return completion_logprobs(names, self.scored, places, unscored=self.prompt.ids[:1])

    def written(self, reader: PromptReader, names: TokenNames) -> "Echo":
        """Write the log-probabilities beforehand; a long prompt's take their time, so this runs apart."""
        return replace(self, json=encoded(self.logprobs(reader, names)).decode())
