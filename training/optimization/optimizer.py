"""AdamW on float32 masters: what a model in any dtype is trained through.

A float32 model is its own master. A bfloat16 model keeps float32 copies: gradients are gathered into them after every
micro-batch, the step is taken there, and the weights are the masters rounded. So small steps are not lost, and what is
published is what was trained. Sharded parameters (`training.distributed.sharded`) have sharded masters and moments;
parameters that every process holds whole have their gradients averaged.

A step is taken a handful of weights at a time, the largest first, and each handful gives the memory of its gradients to
the copies that `undo` needs. So a float32 model takes 16 bytes a parameter while it learns, and 24 once it has stepped
and may have to go back; where nothing is ever taken back, 16.

A weight without a gradient takes no part in a step: neither decay nor momentum of earlier batches moves what this one
says nothing about, be it a table that learns nothing, an expert nobody was sent to or a row nobody looked up. Leaves
out when a step is taken (`training.update`).

Axes: R rows of a weight: its first axis (outputs, experts, token ids).
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from operator import not_

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from training.distributed.ranks import ALONE, Ranks
from training.distributed.sharded import alike, whole
from training.memory.aside import Aside
from training.memory.footprint import Learned

_MASTER = "master"
_MOMENTS = ("exp_avg", "exp_avg_sq")
_AT_ONCE = 2**24  # largest part of the weights that is stepped at once, if it is not one weight that is larger


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """Settings of AdamW (arXiv:1711.05101); the defaults are LEPO's.

    Example: `OptimizerConfig(learning_rate=3e-4, warmup_updates=3)`.

    Raises:
        ValueError: a value is out of its range; the message names the field.

    """

    learning_rate: float = 1e-6  # peak, > 0
    beta1: float = 0.9  # in [0, 1)
    beta2: float = 0.99  # in [0, 1)
    weight_decay: float = 0.1  # of matrices; vectors (norms, biases) are not decayed; >= 0
    warmup_updates: int = 0  # updates over which the rate rises linearly, >= 0
    decay_updates: int = 0  # updates in all, after which a cosine has brought the rate to 0; 0: constant
    max_grad_norm: float = 1.0  # the gradient is scaled down to this norm, > 0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "max_grad_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("weight_decay", "warmup_updates", "decay_updates"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    def rate(self, update: int) -> float:
        """Learning rate of update number `update` (0-based): linear warm-up, then constant or a cosine to 0."""
        if update < self.warmup_updates:
            return self.learning_rate * (update + 1) / self.warmup_updates
        if not self.decay_updates:
            return self.learning_rate
        span = max(1, self.decay_updates - self.warmup_updates)
        passed = min(1.0, (update - self.warmup_updates) / span)
        return self.learning_rate * 0.5 * (1.0 + math.cos(math.pi * passed))


class MasterOptimizer:
    """The trainable parameters of a model, their float32 masters and AdamW's moments."""

    def __init__(self, model: nn.Module, config: OptimizerConfig, ranks: Ranks = ALONE) -> None:
        self.config = config
        self._ranks = ranks
        self._parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
        if not self._parameters:
            raise ValueError("the model has no trainable parameter: set requires_grad on those that should learn")
        self._masters = {name: _master(parameter) for name, parameter in self._parameters.items()}
        self._adam = torch.optim.AdamW(
            [
                {
                    "params": [master for master in part if (master.ndim > 1) is matrix],
                    "weight_decay": config.weight_decay if matrix else 0.0,
                }
                for part in self._parts()
                for matrix in (True, False)
            ],
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
        )
        self.stepped = False  # whether there are steps that `keep` or `undo` has to decide on
        self._before: Aside | None = None  # what they changed, as it was; None: nothing, or it cannot be taken back

    def begin(self) -> None:
        """Start a step: all gradients are zero, so every master takes part in it."""
        for name, parameter in self._parameters.items():
            parameter.grad = None
            self._masters[name].grad = torch.zeros_like(self._masters[name])

    def gather(self) -> None:
        """Add the gradients of one micro-batch to the masters', in float32."""
        for name, parameter in self._parameters.items():
            master = self._masters[name]
            if master is not parameter and parameter.grad is not None:
                assert master.grad is not None
                master.grad.add_(parameter.grad)
                parameter.grad = None

    def marks(self) -> dict[str, int]:
        """Say how often each gradient was added to, of weights that are their own masters."""
        owned = {name: one.grad for name, one in self._masters.items() if one is self._parameters[name]}
        return {name: gradient._version for name, gradient in owned.items() if gradient is not None}

    @contextmanager
    def sparing(self, marks: Mapping[str, int]) -> Iterator[None]:
        """Give no more gradient to weights that got some since; one that was not gathered yet is forgotten.

        Args:
            marks: from `marks`, before the backward pass that failed.

        """
        now = self.marks()
        spared = [self._parameters[name] for name in marks if now[name] != marks[name]]
        for name, parameter in self._parameters.items():
            if self._masters[name] is not parameter:
                parameter.grad = None
        for parameter in spared:
            parameter.requires_grad = False
        try:
            yield
        finally:
            for parameter in spared:
                parameter.requires_grad = True

    def share(self) -> None:
        """Average the gradients of what every process holds whole; those of sharded parameters are already."""
        for master in self._masters.values():
            if not isinstance(master, DTensor) and master.grad is not None:
                self._ranks.average(master.grad)

    def clip(self) -> float:
        """Scale the gradient down to the largest norm allowed; return the norm it had."""
        parts = [part for part in self._parts() if part]
        norms = [whole(nn.utils.get_total_norm([one.grad for one in part if one.grad is not None])) for part in parts]
        norm = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else norms[0]
        for part in parts:
            nn.utils.clip_grads_with_norm_(part, self.config.max_grad_norm, norm)
        return float(norm)

    @torch.no_grad()
    def step(self, rate: float, *, undoable: bool = True) -> None:
        """Take one step, of what has a gradient, and round the masters into the model.

        Args:
            rate: learning rate.
            undoable: whether `undo` can take it back; the same for all steps until `keep` or `undo`.

        """
        for group in self._adam.param_groups:
            group["lr"] = rate
        gradients = {name: master.grad for name, master in self._masters.items() if master.grad is not None}
        self.end()  # so that nothing steps twice
        if undoable and not self.stepped:
            self._before = Aside(one for name in self._masters for one in self._changing(name).values())
        record, self.stepped = None if self.stepped else self._before, True
        for names in self._handfuls():
            if record is not None:
                for name in names:
                    record.put(name, self._changing(name))
            self._step_some({name: gradients.pop(name) for name in names if name in gradients})
        self._round()

    def _handfuls(self) -> Iterator[list[str]]:
        """Give the names of all masters, a few at a time, the largest first: then there are the fewest copies yet."""
        names: list[str] = []
        size = 0
        for name, master in sorted(self._masters.items(), key=lambda one: -one[1].numel()):
            if names and size + master.numel() > _AT_ONCE:
                yield names
                names, size = [], 0
            names.append(name)
            size += master.numel()
        yield names

    def _step_some(self, gradients: Mapping[str, Tensor]) -> None:
        """Step masters by their gradients, and put rows without a gradient back."""
        partly = []
        for name, gradient in gradients.items():
            master, local = self._masters[name], _local(gradient)
            idle_R = ~(local != 0).flatten(1).any(1) if local.ndim > 1 else ~local.any().expand(1)
            if not bool(idle_R.any()):
                master.grad = gradient
            elif isinstance(master, DTensor) or not bool(idle_R.all()):
                partly.append((master, gradient, idle_R))  # all parts of a sharded one have moments, or none
        self._adam.step()
        for name in gradients:
            self._masters[name].grad = None
        for master, gradient, idle_R in partly:
            self._step_rows(master, gradient, idle_R)

    def _step_rows(self, master: Tensor, gradient: Tensor, idle_R: Tensor) -> None:
        """Step one master alone, and put rows without a gradient back."""
        rows_R = idle_R if _local(master).ndim > 1 else idle_R.expand(_local(master).shape)
        changed = [master, *(one for key, one in self._adam.state.get(master, {}).items() if key in _MOMENTS)]
        kept = [_local(one)[rows_R].clone() for one in changed]
        master.grad = gradient
        self._adam.step()
        master.grad = None
        for one, rows in zip(changed, kept, strict=True):
            _local(one)[rows_R] = rows

    def end(self) -> None:
        """Free all gradients."""
        for name, parameter in self._parameters.items():
            parameter.grad = None
            self._masters[name].grad = None

    def moments(self) -> dict[str, Tensor]:
        """Copy AdamW's state: `step.NAME`, `exp_avg.NAME`, `exp_avg_sq.NAME`, of what ever had a gradient.

        Of a sharded parameter, this process's part.
        """
        copies: dict[str, Tensor] = {}
        for name, master in self._masters.items():
            for key, value in self._adam.state.get(master, {}).items():
                copies[f"{key}.{name}"] = value.detach().clone()
        return copies

    def masters(self) -> dict[str, Tensor]:
        """Copy the masters, by parameter name; of a sharded one, this process's part."""
        return {name: master.detach().clone() for name, master in self._masters.items()}

    @property
    def learned(self) -> Learned:
        """What learns; once there are moments, what has none is known to be idle."""
        local = {name: _local(parameter) for name, parameter in self._parameters.items()}
        known = bool(self._adam.state)
        idle = [local[name] for name, master in self._masters.items() if known and master not in self._adam.state]
        return Learned(
            number=sum(one.numel() for one in local.values()),
            item=next(iter(local.values())).itemsize,
            own=not self.mixed,
            idle=sum(one.numel() for one in idle),
        )

    @property
    def moment_bytes(self) -> int:
        """Bytes of the moments there are."""
        return sum(_local(one).nbytes for state in self._adam.state.values() for one in state.values())

    @property
    def mixed(self) -> bool:
        """Whether some master is a copy of its own: then the weights alone do not hold them."""
        return any(self._masters[name] is not parameter for name, parameter in self._parameters.items())

    def keep(self) -> None:
        """Let the steps since the last decision stand."""
        self._before, self.stepped = None, False

    @torch.no_grad()
    def undo(self) -> None:
        """Take back the steps since the last decision, bit for bit; the device gives no memory for it."""
        self.end()
        assert self._before is not None or not self.stepped, "steps that cannot be taken back"
        before, self._before, self.stepped = self._before, None, False
        if before is None:
            return
        for name, kept in before.items():
            now = self._changing(name)
            if now.keys() != kept.keys():  # it had no moments yet
                self._adam.state.pop(self._masters[name])
            for key, one in kept.items():
                now[key].copy_(one)
        self._round()

    def _changing(self, name: str) -> dict[str, Tensor]:
        """Give what a step changes of one weight, master and AdamW's state; of a sharded one, this process's part."""
        master = self._masters[name]
        return {key: _local(one) for key, one in {_MASTER: master, **self._adam.state.get(master, {})}.items()}

    def resume(self, masters: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
        """Go on from a saved state, on the weights that were saved with it.

        Raises:
            ValueError: the state belongs to another model or to other weights; nothing was changed then.

        """
        if self.mixed != bool(masters):
            held = "holds no float32 masters" if self.mixed else "holds masters, but these weights are their own"
            raise ValueError(f"the training state {held}: it was written by a learner of another dtype")
        _require("masters", masters, self._masters)
        for name, master in masters.items():
            parameter = self._parameters[name]
            if not torch.equal(master.to(whole(parameter)), whole(parameter)):
                raise ValueError(
                    f"the training state belongs to other weights: its {name} does not round to the model's"
                )
        self.load(masters, moments)

    @torch.no_grad()
    def load(self, masters: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
        """Take over masters and moments.

        Raises:
            ValueError: names or shapes are not this model's; nothing was changed then.

        """
        owners = {f"{kind}.{name}": master for name, master in self._masters.items() for kind in ("step", *_MOMENTS)}
        _require("masters", masters, self._masters)
        named = {key.partition(".")[2] for key in moments}  # what never had a gradient has none
        wanted = {key: _scalar(key, one) for key, one in owners.items() if key.partition(".")[2] in named}
        _require("moments", moments, wanted)
        for name, value in masters.items():
            self._masters[name].copy_(alike(value, self._masters[name]))
        self._adam.state.clear()
        for key, value in moments.items():
            master, kind = owners[key], key.partition(".")[0]
            copied = value.detach().clone() if kind == "step" else alike(value, master)
            self._adam.state[master][kind] = copied
        self.end()
        self._round()

    def _parts(self) -> tuple[list[Tensor], list[Tensor]]:
        """Masters that are sharded, and those that are whole: torch works on lists of one kind."""
        masters = list(self._masters.values())
        sharded = [isinstance(master, DTensor) for master in masters]
        return list(compress(masters, sharded)), list(compress(masters, map(not_, sharded)))

    @torch.no_grad()
    def _round(self) -> None:
        for name, parameter in self._parameters.items():
            if self._masters[name] is not parameter:
                parameter.copy_(self._masters[name])


def _master(parameter: nn.Parameter) -> Tensor:
    """Return the parameter itself where it is wide enough, else a float32 copy."""
    if parameter.dtype in {torch.float32, torch.float64}:
        return parameter
    return parameter.detach().to(torch.float32, copy=True).requires_grad_()


def _local(tensor: Tensor) -> Tensor:
    """Give this process's part of a sharded tensor, in its own memory; any other is returned as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _scalar(key: str, master: Tensor) -> Tensor:
    """Tell the shape of a piece of AdamW's state: a step count is a scalar, a moment is like its master."""
    return master.new_empty(()) if key.startswith("step.") else master


def _require(what: str, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Take all of what is wanted, or nothing at all."""
    if not given:
        return
    strange = sorted(given.keys() ^ wanted.keys())
    if strange:
        raise ValueError(f"the {what} belong to another model: {strange[:4]} are missing or unknown")
    for name, value in given.items():
        if value.shape != wanted[name].shape:
            raise ValueError(
                f"the {what} belong to another model: {name} is {tuple(value.shape)}, not {tuple(wanted[name].shape)}"
            )
