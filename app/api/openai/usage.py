"""Counting tokens as OpenAI's `usage` does: latent steps are completion tokens, and reasoning tokens."""

from typing import Any


class Usage:
    """A running count of one response."""

    def __init__(self, prompt: int, choices: int) -> None:
        self._prompt = prompt  # prompt tokens, each prompt once
        self._latents = [0] * choices
        self._answer = [0] * choices

    def grow(self, choice: int, *, latents: int = 0, answer: int = 0) -> None:
        """Count what was just shown of a choice."""
        self._latents[choice] += latents
        self._answer[choice] += answer

    def settle(self, choice: int, latents: int, answer: int) -> None:
        """Replace a choice's running count by the count of its finished trace, ending token included."""
        self._latents[choice] = latents
        self._answer[choice] = answer

    def as_json(self) -> dict[str, Any]:
        """Write it as OpenAI does."""
        latents = sum(self._latents)
        completion = latents + sum(self._answer)
        return {
            "prompt_tokens": self._prompt,
            "completion_tokens": completion,
            "total_tokens": self._prompt + completion,
            "completion_tokens_details": {"reasoning_tokens": latents},
        }
