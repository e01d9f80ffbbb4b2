"""What both sides learn from: a model with a real vocabulary, and rollouts of uneven lengths, made from a seed.

Cost and gradients do not depend on whether a policy drew the rollouts, so their ids and weights are drawn at random.
Leaves out how gradients are computed (`benchmarks.update.gradient`).

Axes: P prompt ids, L latent steps, K candidates, T answer tokens.
"""

import random
from dataclasses import dataclass

import torch

from benchmarks.shapes import Shape
from training.rollout import Rollout
from training.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Load:
    """A model and a batch."""

    shape: Shape
    rollouts: int  # B
    prompts: tuple[int, int]  # shortest and longest, tokens
    latents: int  # L
    answers: tuple[int, int]  # shortest and longest, tokens
    repeats: int  # pairs of runs
    positions: int  # our largest micro-batch, padded positions
    chunk_elements: int  # our largest [C, V]


def _shape(name: str, hidden: int, layers: int, vocabulary: int) -> Shape:
    return Shape(name, hidden, layers, hidden // 64, max(1, hidden // 128), 4 * hidden, vocabulary)


LOADS = {
    "micro": Load(_shape("micro", 64, 2, 512), 6, (4, 24), 3, (4, 24), 2, 64, 2**13),  # for tests
    "quick": Load(_shape("quick", 256, 4, 151_936), 8, (16, 96), 8, (16, 96), 2, 512, 2**24),
    "full": Load(_shape("full", 896, 4, 151_936), 16, (32, 192), 16, (16, 192), 3, 1024, 2**26),
}


def rollouts_of(load: Load) -> list[Rollout]:
    """Rollouts of the published sampling settings; the same load gives the same ones."""
    lengths = random.Random(0)  # noqa: S311 - a load, no secret
    generator = torch.Generator().manual_seed(0)
    return [
        _rollout(load, lengths.randint(*load.prompts), lengths.randint(*load.answers), generator)
        for _ in range(load.rollouts)
    ]


def advantages_of(count: int) -> list[float]:
    """Advantages as of two groups, none of them 0."""
    return [1.0 if index % 2 else -1.0 for index in range(count)]


def _rollout(load: Load, prompt: int, answer: int, generator: torch.Generator) -> Rollout:
    """One rollout: K = 30 candidates on each latent step."""
    vocabulary, width = load.shape.vocabulary, 30

    def ids(*shape: int) -> torch.Tensor:
        return torch.randint(vocabulary, shape, generator=generator, dtype=torch.int32)

    weights_LK = torch.randn(load.latents, width, generator=generator).softmax(-1)
    distinct_LK = torch.stack([torch.randperm(vocabulary, generator=generator)[:width] for _ in range(load.latents)])
    return Rollout(
        prompt_ids_P=ids(prompt),
        latent_ids_LK=distinct_LK.to(torch.int32),
        latent_weights_LK=weights_LK,
        latent_logprobs_LK=weights_LK.log(),
        latent_log_mass_L=torch.zeros(load.latents),
        token_ids_T=ids(answer),
        token_logprobs_T=torch.zeros(answer),  # not read: the first step on a batch is on-policy
        token_log_mass_T=torch.zeros(answer),
        sampling=Sampling(latent_length=load.latents, tau=0.5, top_k=width, top_p=0.95),
        policy_version=0,
        stop_reason="stop",
    )
