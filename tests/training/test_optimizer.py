"""The optimizer by argument: what has no gradient stays bit for bit, and steps are taken back bit for bit."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from training.optimization.health import HealthConfig
from training.optimization.optimizer import MasterOptimizer, OptimizerConfig
from training.replay import ReplayConfig
from training.update import Learner, UpdateConfig

from .rollouts import mixed_batch, tiny

QUICK = OptimizerConfig(learning_rate=0.1, weight_decay=0.5)
ADVANTAGES = [1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 0.3]


class Weights(nn.Module):
    """Experts, a matrix, a vector and a table that learns nothing."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        shapes = {"experts": (4, 2, 3), "matrix": (3, 2), "vector": (5,), "table": (6, 2)}
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape, generator=generator).to(dtype)))


def stepped(optimizer: MasterOptimizer, module: nn.Module, seed: int, idle_expert: int | None = None) -> None:
    """Take a step on random gradients; none for the table, nor for one expert."""
    optimizer.begin()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if name != "table":
            gradient = torch.randn(parameter.shape, generator=generator)
            if name == "experts" and idle_expert is not None:
                gradient[idle_expert] = 0.0
            parameter.grad = gradient.to(parameter)
    optimizer.gather()
    optimizer.clip()
    optimizer.step(QUICK.learning_rate)


def everything(optimizer: MasterOptimizer) -> dict[str, Tensor]:
    return optimizer.masters() | optimizer.moments()


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(one, theirs[name]) for name, one in ours.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_has_no_gradient_neither_decays_nor_moves_nor_holds_moments(dtype: torch.dtype) -> None:
    module = Weights(dtype)
    optimizer = MasterOptimizer(module, QUICK)
    table = cast("Tensor", module.table).detach().clone()
    stepped(optimizer, module, seed=1)
    first = everything(optimizer)
    stepped(optimizer, module, seed=2, idle_expert=1)
    second = everything(optimizer)
    assert torch.equal(cast("Tensor", module.table), table)
    assert not any("table" in name for name in optimizer.moments())
    for name in ("experts", "exp_avg.experts", "exp_avg_sq.experts"):
        assert torch.equal(second[name][1], first[name][1]), "momentum of the step before would have moved it"
        assert not torch.equal(second[name][0], first[name][0])


def test_rows_with_a_gradient_take_the_step_of_adamw() -> None:
    module, plain = Weights(), Weights()
    optimizer = MasterOptimizer(module, QUICK)
    experts, matrix, vector = (plain.get_parameter(name) for name in ("experts", "matrix", "vector"))
    parts: list[dict[str, Any]] = [{"params": [experts, matrix]}, {"params": [vector], "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(
        parts,
        lr=QUICK.learning_rate,
        betas=(QUICK.beta1, QUICK.beta2),
        weight_decay=QUICK.weight_decay,
    )
    for seed in (1, 2, 3):
        generator = torch.Generator().manual_seed(seed)
        for parameter in (experts, matrix, vector):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        cast("Tensor", experts.grad)[2] = 0.0
        nn.utils.clip_grad_norm_(list(plain.parameters()), QUICK.max_grad_norm)
        adamw.step()
        stepped(optimizer, module, seed, idle_expert=2)
    busy = [0, 1, 3]
    torch.testing.assert_close(module.get_parameter("experts")[busy], experts[busy])
    torch.testing.assert_close(module.get_parameter("matrix"), matrix)
    torch.testing.assert_close(module.get_parameter("vector"), vector)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("taken", [0, 1])
def test_steps_are_taken_back_bit_for_bit(dtype: torch.dtype, taken: int) -> None:
    """Also where moments began with them, and into the very tensors there are."""
    module = Weights(dtype)
    optimizer = MasterOptimizer(module, QUICK)
    for seed in range(taken):
        stepped(optimizer, module, seed)
    optimizer.keep()
    before, weights = everything(optimizer), {name: one.clone() for name, one in module.state_dict().items()}
    places = [one.data_ptr() for one in optimizer._adam.state.get(optimizer._masters["matrix"], {}).values()]
    for seed in (5, 6):
        stepped(optimizer, module, seed, idle_expert=3)
    assert not same(everything(optimizer), before)
    optimizer.undo()
    assert same(everything(optimizer), before)
    assert same(dict(module.state_dict()), weights)
    assert [one.data_ptr() for one in optimizer._adam.state.get(optimizer._masters["matrix"], {}).values()] == places
    optimizer.undo()
    assert same(everything(optimizer), before), "what was decided is not taken back again"


def test_what_was_kept_is_not_taken_back() -> None:
    module = Weights()
    optimizer = MasterOptimizer(module, QUICK)
    stepped(optimizer, module, 1)
    optimizer.keep()
    after = everything(optimizer)
    optimizer.undo()
    assert same(everything(optimizer), after)


def test_moments_of_a_part_are_resumed_and_broken_ones_refused() -> None:
    module = Weights(torch.bfloat16)
    optimizer = MasterOptimizer(module, QUICK)
    stepped(optimizer, module, 1)
    masters, moments = optimizer.masters(), optimizer.moments()
    other = Weights(torch.bfloat16)
    other.load_state_dict(module.state_dict())
    resumed = MasterOptimizer(other, QUICK)
    resumed.resume(masters, moments)
    assert same(everything(resumed), everything(optimizer))
    for broken in (
        {**moments, "step.strange": torch.tensor(1.0)},
        {k: v for k, v in moments.items() if k != "step.matrix"},
    ):
        with pytest.raises(ValueError, match="another model"):
            resumed.resume(masters, broken)


@pytest.mark.parametrize("gradient", [False, True])
def test_untied_input_embeddings_move_only_where_they_were_looked_up(gradient: bool) -> None:
    model = tiny("llama")
    table = cast("nn.Embedding", model.get_input_embeddings()).weight
    start_VD = table.detach().clone()
    config = UpdateConfig(
        optimizer=OptimizerConfig(learning_rate=1e-2, weight_decay=5.0),
        health=HealthConfig(max_kl=float("inf")),
        replay=ReplayConfig(embedding_gradient=gradient),
    )
    learner = Learner(model, config)
    rollouts = mixed_batch("llama")[:1]
    for _ in range(2):
        learner.update(rollouts, ADVANTAGES[:1])
    [one] = rollouts
    read = {*one.prompt_ids_P.tolist(), *one.latent_ids_LK.flatten().tolist(), *one.token_ids_T[:-1].tolist()}
    moved = {row for row in range(len(table)) if not torch.equal(table[row], start_VD[row])}
    assert moved <= read if gradient else not moved
    assert bool(moved) == gradient
    assert len(read) < len(table)
    assert ("exp_avg.model.embed_tokens.weight" in learner.state()) == gradient
