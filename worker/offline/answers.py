"""Answers to problems by the engine outside the server, and their marks.

A mark has three states, as a verdict has: graded, no grade, failed. Seeds belong to the problems, so two policies meet
the same noise. Leaves out what the marks add up to (`evaluate`) and what is learned from them (`train`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from transformers import PreTrainedTokenizerBase

from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.request import Finished, Request
from app.errors import BadRequest
from training.graders.parse import parse_grader
from training.graders.verdict import Failed, Graded, Verdict
from training.models.chat import render_chat
from training.models.policy import Policy
from training.placement import Placement, own_placement, placement_of
from training.sampling import Sampling
from training.tasks.problem import Problem

RIGHT: Final = 0.5  # a grade from here on counts as a right answer
State = Literal["graded", "no_grade", "failed"]
PlacementWish = Literal["auto", "answer", "thinking", "preamble"]


@dataclass(frozen=True, slots=True)
class Asking:
    """How problems are asked.

    Example: `Asking(Sampling(latent_length=4, tau=0.5), max_new=40, choices=8, slots=32)`.
    """

    sampling: Sampling  # its seed is the first problem's; problem i has seed + i
    max_new: int  # latent steps plus tokens of an answer, > sampling.latent_length
    choices: int  # answers per problem, >= 1
    slots: int  # answers decoded together, >= 1
    placement: PlacementWish = "auto"  # where latent steps sit; "auto": as the model was trained, else see `Placements`
    lead_in: str = ""  # text before the latent steps of a preamble
    lead_out: str = ""  # text after them; empty: see `training.placement.placement_of`

    def placed(self, policy: Policy) -> Placement:
        """Settle where latent steps sit for one model.

        Raises:
            ValueError: the model has no place for them there.

        """
        own = own_placement(policy.model.config, policy.tokenizer) if self.placement == "auto" else self.placement
        return placement_of(own, policy.tokenizer, self.lead_in, self.lead_out)


@dataclass(frozen=True, slots=True)
class Mark:
    """What the grader said of one answer."""

    state: State
    value: float | None  # in [0, 1]; None unless graded
    detail: str  # the grader's words; may be empty

    @property
    def right(self) -> bool:
        """Whether the answer was graded and right."""
        return self.value is not None and self.value >= RIGHT


def answer(
    policy: Policy,
    problems: Sequence[Problem],
    asking: Asking,
    progress: Callable[[int], None] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[list[Finished]]:
    """Answer every problem `asking.choices` times under the policy's weights as they are now.

    Args:
        policy: read, not changed; its engine is made for this call, so no prefix of other weights is remembered.
        problems: any number.
        asking: see `Asking`.
        progress: told how many answers are done; what it raises ends the call.
        seeds: one per problem, instead of counting up from the sampling's.

    Raises:
        BadRequest: a problem does not fit the model together with its answer budget.

    """
    if not problems:
        return []
    named = seeds or range(asking.sampling.seed, asking.sampling.seed + len(problems))
    try:
        placement = asking.placed(policy)
    except ValueError as error:
        raise BadRequest(f"--placement: {error}") from error
    requests = [
        Request(
            prompt_ids=prompt_ids(policy.tokenizer, problem),
            sampling=replace(asking.sampling, seed=seed),
            max_new=asking.max_new,
            choices=asking.choices,
            placement=placement,
            goes_on=not policy.tokenizer.chat_template,  # as of plain completions: the problem is text, not a turn
        )
        for problem, seed in zip(problems, named, strict=True)
    ]
    longest = max(len(request.prompt_ids) for request in requests)
    try:
        config = EngineConfig(
            slots=asking.slots,
            max_length=max(8, longest + placement.size + asking.max_new),
            max_top_k=asking.sampling.top_k,
            max_waiting=max(asking.choices, 1),
        )
        engine = Engine(policy, config)
        try:
            return engine.generate(requests, progress)
        finally:
            engine.close(0.0)
    except ValueError as error:
        raise BadRequest(f"{error} (the longest prompt has {longest} tokens; see --max-new)") from error


def prompt_ids(tokenizer: PreTrainedTokenizerBase, problem: Problem) -> tuple[int, ...]:
    """Tokens of a problem as a user's message, or as plain text where the model has no chat template."""
    if tokenizer.chat_template:
        return tuple(render_chat(tokenizer, [{"role": "user", "content": problem.prompt}]))
    return tuple(tokenizer.encode(problem.prompt))


def mark(problem: Problem, texts: Sequence[str], deadline_s: float) -> list[Mark]:
    """Grade the answers to one problem, each within `deadline_s` seconds."""
    grader = parse_grader(problem.grader)
    return [_marked(grader.grade(text, deadline_s)) for text in texts]


def _marked(verdict: Verdict) -> Mark:
    if isinstance(verdict, Graded):
        return Mark("graded", verdict.value, verdict.detail)
    return Mark("failed" if isinstance(verdict, Failed) else "no_grade", None, verdict.reason)
