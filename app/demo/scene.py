"""What a demo is made of: a model, problems it can get better at, and how long and how hard it is taught.

A value that everything else in this room is given. Leaves out the two scenes there are (`app.demo.scenes`) and how one
is played (`app.demo.staging`, `app.demo.circle`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.tasks.problem import Problem
from training.tasks.splits import Split

MakeProblems = Callable[[Split, int], list[Problem]]  # distinct problems of a split, the same at every call


@dataclass(frozen=True, slots=True)
class Claims:
    """What a demo promises; it exits with 0 when all of it held, and no request failed."""

    gain: float  # accuracy, absolute, > 0
    swaps: int = 3  # at least so many while serving


@dataclass(frozen=True, slots=True)
class Scene:
    """One demo. Example: `replace(REAL, learn_s=60.0, exam_problems=40)` is a short form of the real one."""

    command: str  # that plays it, over the live view
    title: str  # of the table of figures
    caption: str  # of the plot
    directory: Path  # where the stack keeps its data, and the plot and the summary go; made afresh
    model: str  # as LEPO_MODEL
    problems: MakeProblems
    train_problems: int  # that users ask, >= 1
    gate_problems: int  # held out for the gate, >= 1
    exam_problems: int  # asked before and after, and by nobody else, >= 1
    settings: Mapping[str, str]  # of the service, beside those that follow from other fields
    latent_length: int  # latent steps of every answer, >= 0
    placement: Literal["answer", "thinking", "preamble"]  # where they sit, as LEPO_LATENT_PLACEMENT
    learn_s: float  # seconds of serving and learning between the exams, > 0
    settle_s: float  # most seconds for the update under way to end, and what came of it to serve, > 0
    users: int  # simulated users at once, >= 1
    choices: int  # answers per question, >= 2 gives the group baseline
    think_s: float  # mean seconds a user thinks between questions, > 0
    request_s: float  # seconds after which a request has failed, > 0
    line_every_s: float  # seconds between two lines of the live view where there is no terminal, > 0
    claims: Claims

    @property
    def environment(self) -> dict[str, str]:
        """Settings of the service, but for the place of the held-out prompts."""
        return {
            **self.settings,
            "LEPO_MODEL": self.model,
            "LEPO_LATENT_LENGTH": str(self.latent_length),
            "LEPO_LATENT_PLACEMENT": self.placement,
            "LEPO_HELDOUT_SIZE": str(self.gate_problems),
        }
