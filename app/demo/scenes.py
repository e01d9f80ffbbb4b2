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

CHAIN_SUM: Final = "reasoning_gym:chain_sum:min_terms={terms},max_terms={terms},min_digits={digits},max_digits={digits}"
SIZES: Final = ((2, 1), (2, 2), (3, 1), (3, 2))  # terms, and digits of each; the package draws them alike
SEEDS: Final = MappingProxyType({Split.TRAIN: 0, Split.VALIDATION: 1, Split.TEST: 2})
FEW: Final = MappingProxyType({Split.TRAIN: 120, Split.VALIDATION: 12, Split.TEST: 12})  # sums of two digits there are


def chained_arithmetic(split: Split, count: int) -> list[Problem]:
    """Make problems that the toy model was shown: "Work out 47 + 6 - 8 + 9 step by step."."""
    return generate("chained_arithmetic", split, count, seed=0)


def chain_sums(split: Split, count: int) -> list[Problem]:
    """Make sums of the package reasoning-gym; an answer is right when its last number is.

    Sums of two numbers of one digit are few. Those asked again and again are a quarter of what is trained on, as the
    package would ask them; of exams they are as many as there are, each once.

    Raises:
        ValueError: the package is not installed; the message says how to.

    """
    few = min(FEW[split], -(-count // 4))
    wanted = {SIZES[0]: few, **dict.fromkeys(SIZES[1:], -(-(count - few) // 3))}
    made = {size: sums(split, *size, many) for size, many in wanted.items()}
    if split == Split.TRAIN:
        made[SIZES[0]] *= -(-count // (4 * few))
    mixed = [one for alike in made.values() for one in alike]
    return random.Random(SEEDS[split]).sample(mixed, count)  # noqa: S311  no secret


def sums(split: Split, terms: int, digits: int, count: int) -> list[Problem]:
    """Make distinct sums of one size."""
    from training.tasks.gym import make_problems, parse_source

    source = replace(parse_source(CHAIN_SUM.format(terms=terms, digits=digits), split), size=count, seed=SEEDS[split])
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
