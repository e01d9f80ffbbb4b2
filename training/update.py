"""One update: graded rollouts in, better weights out, or exactly the weights from before.

The flow is meant to be read: look at the policy, take one step per minibatch (gradients of micro-batches add up to
the gradient of the whole), look again, judge. A guard that refuses, a caller who cancels, or any error leaves the
weights and the optimizer bit for bit as they were; or, by a setting that saves the copies, a learner that must be
dropped. A gradient of zero takes no step: momentum of earlier batches must not move a policy that this batch says
nothing about. By default each rollout is used for one step; `epochs` and `minibatches` reuse a batch as PPO does,
clipped against the policy at the start of the update.

What is looked at and judged is what will serve: where another model follows the one that learns (adapters, merged and
rounded), it is that one.

Leaves out how a gradient comes about (`training.optimization.gradient`), baselines (`training.advantage`), the held-out
gate, publishing, and time: deadlines come in through `cancelled`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from training.distill import Correction, DistillConfig, DistillReport, targets
from training.distill import Target as DistillTarget
from training.distill import report as distill_report
from training.distributed.ranks import ALONE, Ranks
from training.distributed.sharded import whole
from training.divergence import Divergence, Measuring, measure
from training.memory.footprint import Plan, activations_of, bytes_of, held_by, planned
from training.memory.recompute import checkpointed_layers, recomputing
from training.memory.room import Free, give_back, usable_bytes
from training.models.backends import settle
from training.models.head import CausalLM, take_apart
from training.objective import ObjectiveConfig, ObjectiveMetrics, Tally
from training.optimization.batches import batches_of, micro_batches
from training.optimization.gradient import Gradient, Loss
from training.optimization.health import HealthConfig, UpdateCancelled, check_gradient, check_length, check_policy
from training.optimization.optimizer import MasterOptimizer, OptimizerConfig
from training.optimization.probe import look, movement, spread
from training.optimization.steps import Passes, Step, padding_share, steps_of
from training.optimization.watch import Cancelled, Progress, Watch
from training.replay import ReplayConfig, Replayed, replay
from training.rollout import Rollout
from training.sampling import Target
from training.shared_prompts import Sharing, executed_length
from training.traces import TraceStats, describe


class Follower(Protocol):
    """What serves in the place of the model that learns, and follows it (`training.models.lora.Adapted`)."""

    @property
    def served(self) -> PreTrainedModel:
        """The model that serves."""

    def merge(self) -> float:
        """Write what was learned into it; returns the share of it that was lost on the way, 0 for none."""


@dataclass(frozen=True, slots=True)
class UpdateConfig:
    """Settings of one update.

    Example: `UpdateConfig(optimizer=OptimizerConfig(learning_rate=3e-4), micro_batch_positions=4096)`.

    Raises:
        ValueError: a value is out of its range, or settings contradict each other.

    """

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    target: Target | None = None  # whose sampling learns; None: each rollout's own, which a mixed batch must not have
    micro_batch_positions: int = 0  # padded positions per forward, > 0; 0: what the free memory holds, 16,384 at most
    epochs: int = 1  # passes over the batch, > 0
    minibatches: int = 1  # optimizer steps per pass, > 0
    probe_rollouts: int = 32  # rollouts scored before and after the update for its KL and entropy, > 0
    activation_checkpointing: bool = False  # recompute layers in the backward pass: less memory, a third more time
    undo: bool = True  # whether an update that fails is taken back; False: whoever holds the learner drops it then
    seed: int = 0  # names the shuffle into minibatches

    def __post_init__(self) -> None:
        for name, lowest in {"micro_batch_positions": 0, "epochs": 1, "minibatches": 1, "probe_rollouts": 1}.items():
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be {lowest} or more, got {getattr(self, name)}")
        if self.epochs * self.minibatches > 1 and self.objective.old_logprobs == "none":
            raise ValueError("epochs or minibatches above 1 reuse rollouts: set old_logprobs to 'recorded'")


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What an accepted update did."""

    loss: float  # mean over optimizer steps
    gradient_norm: float  # before clipping, the largest of the steps
    learning_rate: float
    kl: float  # nats per step, KL(policy before || after), see `optimization.probe`; of what serves, as is the entropy
    entropy_before: float  # nats, mean over answer tokens
    entropy_after: float  # nats
    objective: ObjectiveMetrics  # over the rollouts that had an advantage (all of them with beta > 0)
    traces: TraceStats  # over all rollouts
    rollouts: int  # rollouts given
    distilled: DistillReport  # what was learned from corrections
    without_signal: int  # of these, rollouts with advantage 0: they pull nowhere and were not run with beta = 0
    optimizer_steps: int  # 0: nothing in the batch pulled, and nothing moved
    micro_batches: int
    micro_batch_positions: int  # padded positions of the largest that was planned
    halved: int  # micro-batches, or parts of one, that memory did not hold and that were done in halves
    padding_share: float  # share of padded positions that held nothing, in [0, 1)
    merge_loss: float  # share of what adapters say that rounding kept from what serves; 0 without adapters
    merge_kl: float  # nats per step, KL(what learned || what serves); 0 without adapters


class Learner:
    """A model that learns, its AdamW state and its count of updates.

    The model is changed in place and switched to eval mode (dropout off, so that replay is what was sampled): give the
    learner its own copy, never the one that serves.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: UpdateConfig | None = None,
        reference: PreTrainedModel | None = None,
        ranks: Ranks = ALONE,
        follower: Follower | None = None,
        free: Free = usable_bytes,
    ) -> None:
        """Check that the model can be learned from.

        Args:
            model: a stock causal LM, float32 or bfloat16 (float32 masters are kept then).
            config: settings of every update.
            reference: frozen model for the KL term; needed with beta > 0, unused without.
            ranks: the processes that learn together; each gives the same batch to the same calls, and each does a
                part of the micro-batches.
            follower: what serves in the model's place and follows every update; None: the model itself serves.
            free: says how many bytes a device has left; micro-batches are sized by it.

        Raises:
            ValueError: beta > 0 without a reference, or a model that `training.models.head.take_apart` refuses.

        """
        self.config = config or UpdateConfig()
        if self.config.objective.beta > 0 and reference is None:
            raise ValueError("beta > 0 needs a reference model: load the first checkpoint, or set beta to 0")
        self.updates = 0  # that moved the weights and were accepted, so far
        model.train(mode=False)
        settle(next(model.parameters()).device)
        self._causal = take_apart(model)
        self._reference = None
        if reference is not None and self.config.objective.beta > 0:
            reference.train(mode=False)
            self._reference = take_apart(reference.requires_grad_(requires_grad=False))
        self._follower = follower
        self._shown = self._causal if follower is None else take_apart(follower.served)
        self._ranks = ranks
        self._free = free
        self._broken = False  # whether a failed update was not taken back
        self._optimizer = MasterOptimizer(model, self.config.optimizer, ranks)
        self._recomputed = checkpointed_layers(model) if self.config.activation_checkpointing else []

    @property
    def model(self) -> PreTrainedModel:
        """The model that learns, as it is now."""
        return self._causal.model

    def update(
        self,
        rollouts: Sequence[Rollout],
        advantages: Sequence[float],
        corrections: Sequence[Correction] = (),
        *,
        progress: Progress | None = None,
        cancelled: Cancelled | None = None,
    ) -> UpdateReport:
        """Learn from one batch.

        Args:
            rollouts: at least one, or at least one correction.
            advantages: one per rollout, from `training.advantage`.
            corrections: answers that should have been given; they are learned from in the first optimizer step.
            progress: told after every micro-batch.
            cancelled: asked before every micro-batch.

        Raises:
            UpdateRejected: a guard refused; the learner is as before, the diagnosis is on the exception.
            UpdateCancelled: `cancelled` said so; the learner is as before.
            RuntimeError: an update failed before, and by the settings it was not taken back.
            ValueError: no rollouts, counts that differ, or a rollout that must not be learned from.

        """
        _require_batch(rollouts, advantages, corrections, self._ranks)
        self._require_whole()
        traces = describe([*rollouts, *(one.given for one in corrections)])
        check_length(traces.mean_tokens, self.config.health)
        accepted = False
        give_back(self._causal.device)  # what others have left behind here counts as free
        try:
            watch = Watch(progress, cancelled, self._ranks)
            report = self._learn(rollouts, advantages, corrections, traces, watch)
            accepted = True
        finally:
            if accepted:
                self._optimizer.keep()
            else:
                self._take_back()
            give_back(self._causal.device)
        self.updates += report.optimizer_steps > 0
        return report

    def measure(self, rollouts: Sequence[Rollout], *, cancelled: Cancelled | None = None) -> list[Divergence]:
        """Measure how far rollouts are from the policy as it is, and what they would weigh in an update.

        Args:
            rollouts: any number; none of them altered.
            cancelled: asked before every micro-batch.

        Returns:
            One per rollout, in their order; the same on every process.

        Raises:
            UpdateCancelled: `cancelled` said so.
            ValueError: a rollout must not be learned from.

        """

        def check() -> None:
            if self._ranks.agreed(cancelled is not None and cancelled()):
                raise UpdateCancelled("measuring the rollouts was cancelled")

        self._require_whole()
        config = self.config
        positions = self.plan(max(map(executed_length, rollouts), default=0)).positions
        how = Measuring(config.target, config.replay, config.objective, positions)
        return self._ranks.first(measure(self._causal, rollouts, how, check))

    def plan(self, longest: int) -> Plan:
        """Say what an update takes, and how large its micro-batches are; the same on every process.

        Args:
            longest: positions of its longest rollout.

        """
        config, optimizer, model = self.config, self._optimizer, self._causal.model
        beside = [one.model for one in (self._causal, self._shown, self._reference) if one is not None]
        here = self._causal.device.type == "cpu"  # elsewhere copies that are in the way go to the host
        held = held_by(optimizer.learned, weights=bytes_of(beside), undo=config.undo and here)
        each = activations_of(model, recomputed=bool(self._recomputed), chunk_elements=config.replay.chunk_elements)
        return min(
            self._ranks.gathered(
                planned(
                    held,
                    each,
                    self._left(),
                    longest=longest,
                    several=config.epochs * config.minibatches > 1,
                    there=held.weights + held.masters + optimizer.moment_bytes,
                    positions=config.micro_batch_positions,
                )
            ),
            key=lambda plan: plan.positions,
        )

    def _left(self) -> int:
        """Bytes that the fullest of the model's devices has left; processes on one host share it."""
        devices = {one.device for one in self._causal.model.parameters()}
        return min(self._free(one) // (self._ranks.size if one.type == "cpu" else 1) for one in devices)

    def state(self) -> dict[str, Tensor]:
        """Copy what must go on after a restart beside the weights; contiguous CPU tensors for safetensors.

        `updates`; AdamW's `step.*`, `exp_avg.*`, `exp_avg_sq.*`; `master.*` where the weights are not float32. All of
        them whole, on every process: each must call it.
        """
        tensors = {"updates": torch.tensor(self.updates), **self._optimizer.moments()}
        if self._optimizer.mixed:
            tensors |= {f"master.{name}": value for name, value in self._optimizer.masters().items()}
        return {name: whole(value).cpu().contiguous() for name, value in tensors.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave, on the weights it was given with.

        Raises:
            ValueError: the tensors belong to another model or other weights; nothing was changed then.

        """
        masters = {key.removeprefix("master."): one for key, one in tensors.items() if key.startswith("master.")}
        moments = {key: one for key, one in tensors.items() if not key.startswith("master.") and key != "updates"}
        if "updates" not in tensors:
            raise ValueError("no 'updates' in the training state: it was not written by a learner")
        self._optimizer.resume(masters, moments)
        self.updates = int(tensors["updates"])

    def _take_back(self) -> None:
        """Be as before an update that failed; where that is not wanted or fails itself, be of no more use."""
        self._broken = self._optimizer.stepped
        if self.config.undo:
            self._optimizer.undo()
            self._follow()
            self._broken = False
        self._optimizer.end()

    def _require_whole(self) -> None:
        if self._broken:
            raise RuntimeError("this learner's last update failed and was not taken back: load the policy again")

    def _learn(
        self,
        rollouts: Sequence[Rollout],
        advantages: Sequence[float],
        corrections: Sequence[Correction],
        traces: TraceStats,
        watch: Watch,
    ) -> UpdateReport:
        """Look, step, look again, judge."""
        config = self.config
        drawn = [*rollouts, *(one.given for one in corrections)]  # of a correction, what the policy drew itself
        positions = self.plan(max(map(executed_length, drawn))).positions
        probed = [drawn[index] for index in spread(len(drawn), config.probe_rollouts)]
        before = self._look(self._shown, probed, positions)
        passes = Passes(config.epochs, config.minibatches, config.seed + self.updates * config.epochs)
        steps = list(steps_of(rollouts, advantages, config.objective, passes, positions, self._sharing))
        start = self._start(rollouts, positions) if len(steps) > 1 else None
        taught = self._taught(corrections, positions)
        watch.total = sum(len(self._ranks.dealt(step.buckets)) for step in steps)
        rate = config.optimizer.rate(self.updates)
        loss = Loss(config.replay, config.objective, config.distill, config.target, positions)
        gradient = Gradient(self._causal, self._reference, loss, self._optimizer, self._ranks, watch.ask)
        taken = [
            self._step(step, rate, start, gradient, watch, taught if number == 0 else None)
            for number, step in enumerate(steps)
        ]
        stepped = sum(one.norm > 0 for one in taken)
        lost = self._follow() if stepped else 0.0
        after = self._look(self._shown, probed, positions) if stepped else before
        moved = self._ranks.first(movement(before, after))
        check_policy(moved.kl, moved.entropy_after, config.health)
        tally = sum((one.tally for one in taken), start=Tally.empty())
        return UpdateReport(
            loss=sum(one.loss for one in taken) / len(taken),
            gradient_norm=max(one.norm for one in taken),
            learning_rate=rate,
            kl=moved.kl,
            entropy_before=moved.entropy_before,
            entropy_after=moved.entropy_after,
            objective=tally.metrics(),
            traces=traces,
            rollouts=len(rollouts),
            distilled=distill_report(taught.aims, taken[0].distilled),
            without_signal=sum(advantage == 0 for advantage in advantages),
            optimizer_steps=stepped,
            micro_batches=sum(len(step.buckets) for step in steps),
            micro_batch_positions=positions,
            halved=gradient.halved,
            padding_share=padding_share(steps, positions, self._sharing),
            merge_loss=lost,
            merge_kl=self._apart(probed, after, positions) if stepped else 0.0,
        )

    def _taught(self, corrections: Sequence[Correction], positions: int) -> "_Taught":
        """Find what corrections teach, by the policy as it is."""
        aims = targets(self._causal, corrections, self.config.distill, positions)
        buckets = micro_batches([executed_length(one.rollout) for one in corrections], positions)
        return _Taught(corrections, aims, buckets)

    @property
    def _sharing(self) -> Sharing | None:
        """How rollouts share rows: what learns and, where there is one, its reference must both be able to."""
        return None if self._reference is not None and self._reference.sharing is None else self._causal.sharing

    def _look(self, model: CausalLM, probed: Sequence[Rollout], positions: int) -> list[Replayed]:
        return look(model, probed, self.config.replay, positions)

    def _follow(self) -> float:
        """Let what serves follow; returns the share of what was learned that it does not have."""
        return 0.0 if self._follower is None else self._follower.merge()

    def _apart(self, probed: Sequence[Rollout], shown: Sequence[Replayed], positions: int) -> float:
        """Tell how far what serves is from what learned, nats per step."""
        if self._shown is self._causal:
            return 0.0
        return self._ranks.first(movement(self._look(self._causal, probed, positions), shown).kl)

    @torch.no_grad()
    def _start(self, rollouts: Sequence[Rollout], positions: int) -> list[Tensor]:
        """Score every rollout's tokens before the first step, [T] each: what the ratios are taken against."""
        config, found = self.config, {}
        for bucket in batches_of(rollouts, positions, self._sharing):
            chosen = [rollouts[index] for index in bucket]
            replayed = replay(self._causal, chosen, config.replay, target=config.target, positions=positions)
            for row, index in enumerate(bucket):
                found[index] = replayed.token_logprobs_BT[row, : rollouts[index].answer_length]
        return [found[index] for index in range(len(rollouts))]

    def _step(
        self,
        step: Step,
        rate: float,
        start: Sequence[Tensor] | None,
        gradient: Gradient,
        watch: Watch,
        taught: "_Taught | None" = None,
    ) -> "_Taken":
        """Take one optimizer step; the gradient is that of all its micro-batches together, and of corrections."""
        self._optimizer.begin()
        loss, tally, distilled = torch.zeros((), dtype=torch.float64), Tally.empty(), 0.0
        with recomputing(self._recomputed):
            for bucket in self._ranks.dealt(step.buckets):
                if bucket is None:
                    gradient.go_along(step)
                else:
                    part_loss, part_tally = gradient.add(step, bucket, start)
                    loss, tally = loss + part_loss, tally + part_tally
                watch.tell()
            if taught is not None and self.config.distill.weight:
                buckets = taught.buckets
                distilled = sum(gradient.add_corrections(taught.corrections, taught.aims, one) for one in buckets)
        loss, tally = self._ranks.total(loss), Tally(*self._ranks.total(tally.stacked()))
        self._optimizer.share()
        norm = self._optimizer.clip()
        check_gradient(float(loss), norm, self.config.health)
        if norm > 0:
            self._optimizer.step(rate, undoable=self.config.undo)
        else:
            self._optimizer.end()
        return _Taken(float(loss), norm, tally, distilled)


@dataclass(frozen=True, slots=True, eq=False)
class _Taken:
    """One optimizer step, done."""

    loss: float
    norm: float  # of the gradient, before clipping; 0: no step was taken
    tally: Tally
    distilled: float  # mean cross-entropy of corrections to their targets, nats per token


@dataclass(frozen=True, slots=True, eq=False)
class _Taught:
    """Corrections with what their tokens are to become."""

    corrections: Sequence[Correction]
    aims: Sequence[DistillTarget]
    buckets: list[list[int]]  # micro-batches of them


def _require_batch(
    rollouts: Sequence[Rollout], advantages: Sequence[float], corrections: Sequence[Correction], ranks: Ranks
) -> None:
    if not rollouts and not corrections:
        raise ValueError("nothing to learn from: give at least one rollout")
    if corrections and ranks.size > 1:
        raise ValueError("corrections are learned from by one process: leave them out, or use one")
    if len(rollouts) != len(advantages):
        raise ValueError(f"{len(rollouts)} rollouts but {len(advantages)} advantages: give one for each")
