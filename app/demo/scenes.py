"""The two scenes: a toy that takes minutes, and a real model that takes half an hour on two cores.

Every setting is an ordinary one of the product. Problems of training, gate and exam are of three splits that follow
from the questions themselves, so none is in two of them. Leaves out the problems (`training.tasks`).
"""

import random
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

from app.demo.scene import Claims, Scene
from training.tasks.families import generate
from training.tasks.problem import Problem
from training.tasks.splits import Split

CHAIN_SUM: Final = "reasoning_gym:chain_sum:min_terms=2,max_terms=2,min_digits={digits},max_digits={digits}"
SEEDS: Final = MappingProxyType({Split.TRAIN: 0, Split.VALIDATION: 1, Split.TEST: 2})
SHORT: Final = MappingProxyType({Split.TRAIN: 120, Split.VALIDATION: 12, Split.TEST: 12})  # of one digit there are


def chained_arithmetic(split: Split, count: int) -> list[Problem]:
    """Make problems that the toy model was shown: "Work out 47 + 6 - 8 + 9 step by step."."""
    return generate("chained_arithmetic", split, count, seed=0)


def chain_sums(split: Split, count: int) -> list[Problem]:
    """Make sums of two numbers of one or two digits, from the package reasoning-gym; right when the last number is.

    Of one digit there are few. Of what is trained on they are a quarter, asked again and again; of exams they are as
    many as there are, each once.

    Raises:
        ValueError: the package is not installed; the message says how to.

    """
    short = sums(split, 1, min(SHORT[split], -(-count // 4)))
    repeated = short * -(-count // (4 * len(short))) if split == Split.TRAIN else short
    mixed = repeated + sums(split, 2, count - len(short))
    return random.Random(SEEDS[split]).sample(mixed, count)  # noqa: S311  no secret


def sums(split: Split, digits: int, count: int) -> list[Problem]:
    """Make distinct sums of two numbers of so many digits."""
    from training.tasks.gym import make_problems, parse_source

    source = replace(parse_source(CHAIN_SUM.format(digits=digits), split), size=count, seed=SEEDS[split])
    return [replace(one, grader=last_number(one.answer)) for one in make_problems(source)]


def last_number(reference: str) -> dict[str, str]:
    """Write a grader that gives 1 when the last number of an answer is the reference, else 0."""
    return {"type": "string_check", "operation": "eq", "extract": "last_number", "reference": reference}


TOY: Final = Scene(
    command="lepo demo",
    title="The circle",
    caption="A policy that learns from grades while it serves",
    directory=Path("var/demo"),
    model="demo",
    problems=chained_arithmetic,
    train_problems=4000,
    gate_problems=200,
    exam_problems=300,
    settings=MappingProxyType(
        {
            "LEPO_PORT": "0",
            "LEPO_THREADS": "1",
            "LEPO_LATENT_TAU": "0.5",
            "LEPO_MAX_LENGTH": "128",
            "LEPO_MAX_COMPLETION_TOKENS": "40",
            "LEPO_SLOTS": "32",
            "LEPO_LEARN_INTERVAL": "0.5",
            "LEPO_GRADE_INTERVAL": "0.5",
            "LEPO_MIN_GRADES": "128",
            "LEPO_MAX_GRADES": "256",
            "LEPO_LEARNING_RATE": "3e-4",
            "LEPO_WEIGHT_DECAY": "0",
        }
    ),
    latent_length=4,
    placement="answer",
    learn_s=150.0,
    settle_s=60.0,
    users=4,
    choices=8,
    think_s=0.3,
    request_s=60.0,
    line_every_s=5.0,
    claims=Claims(gain=0.20),
)

LATENT_STEPS: Final = 0  # it never met a mixture, and nobody has shown yet that latents pay on it (docs/log.md)

REAL: Final = Scene(
    command="lepo demo --real",
    title="The circle: SmolLM2-135M-Instruct on sums",
    caption="SmolLM2-135M-Instruct learns sums from grades while it serves",
    directory=Path("var/demo-real"),
    model="smollm2",
    problems=chain_sums,
    train_problems=2000,
    gate_problems=50,  # of which a fifth is sealed
    exam_problems=200,
    settings=MappingProxyType(
        {
            "LEPO_PORT": "0",
            "LEPO_THREADS": "1",  # of two cores, one serves and one learns
            "LEPO_DATABASE_TIMEOUT": "30",  # both cores are busy, so Postgres has to wait
            "LEPO_LATENT_TAU": "0.5",
            "LEPO_MAX_LENGTH": "160",
            "LEPO_MAX_COMPLETION_TOKENS": "40",
            "LEPO_SLOTS": "40",  # all that the gate asks at once
            "LEPO_LEARN_INTERVAL": "0.5",
            "LEPO_GRADE_INTERVAL": "0.5",
            "LEPO_MIN_GRADES": "128",  # sixteen questions, eight answers each: by half, updates undo one another
            "LEPO_MAX_GRADES": "128",
            "LEPO_LEARNING_RATE": "3e-5",
            "LEPO_WEIGHT_DECAY": "0",
            "LEPO_MICRO_BATCH_TOKENS": "1024",
            "LEPO_GATE_ANSWERS": "40",  # of each of two policies at a look; what looks find adds up
            "LEPO_GATE_NO_SIGNAL": "promote",  # at first so little is right that a look may see nothing
            "LEPO_KEEP_CHECKPOINTS": "3",  # a version takes 1.6 GB with what the optimizer remembers
        }
    ),
    latent_length=LATENT_STEPS,
    placement="preamble",
    learn_s=1320.0,
    settle_s=240.0,
    users=3,
    choices=8,
    think_s=4.0,
    request_s=300.0,
    line_every_s=15.0,
    claims=Claims(gain=0.15),
)
