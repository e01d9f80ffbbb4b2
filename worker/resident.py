"""What a worker process holds: the policy that learns, resident from update to update, and the context of its tasks.

While the serving version is the one it made, it goes on with the weights and the optimizer it has; otherwise (a fresh
process, a rollback, a rejected candidate, another device) it starts again from the checkpoint's directory, which holds
the optimizer's state too. With adapters a twin learns and the policy follows (`training.models.lora`): they go on from
the first weights they were made on, or, where those are gone or the version has none, begin anew on the version's own.
Leaves out which version serves (`app.store.policy_life`) and what settings mean (`app.settings`, `training.update`).
"""

import logging
import os
import socket
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from app.models.host import free
from app.models.learning import words
from app.settings import Settings
from app.store.connect import Store
from app.telemetry.told import Silence, Telemetry
from training.distill import DistillConfig
from training.models.checkpoint import MANIFEST, load_training_state, verify
from training.models.lora import ADAPTER, Adapted, LoraSettings, made_of
from training.models.policy import Policy, load_policy
from training.objective import ObjectiveConfig
from training.optimization.health import HealthConfig
from training.optimization.optimizer import OptimizerConfig
from training.replay import ReplayConfig
from training.sampling import Target
from training.update import Learner, UpdateConfig
from worker.watchdog import Alarm, silent

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a version's weights are."""

    version: int  # policy version, >= 0
    path: str  # a checkpoint directory, or what `from_pretrained` takes (the base model)


class Resident:
    """Holds at most one policy with its learner.

    Args:
        settings: dtype and device of the weights, and the adapters.

    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._policy: Policy | None = None
        self._learner: Learner | None = None
        self._reference: Policy | None = None
        self._twin: Adapted | None = None

    def policy(self, source: Source) -> Policy:
        """Give the policy of that version, from memory if it is the resident one.

        Raises:
            ValueError: the directory is damaged or incomplete; the message says how.

        """
        if self._policy is None or self._policy.version != source.version:
            self.drop()
            self._policy = self.load(source)
        return self._policy

    def learner(self, source: Source, base: Source, config: UpdateConfig) -> Learner:
        """Give the learner of that version under these settings.

        Args:
            source: the version to learn from.
            base: the first checkpoint, the reference of the KL term.
            config: settings of the update; when they differ from the last update's the optimizer's state goes on.

        """
        if self._policy is None or self._policy.version != source.version:
            self.drop()
        if self._learner is None:
            going_on = self._adapt(source, base) if self._settings.lora_rank else not adapted(source.path)
            self._learner = self._made(source, base, config)
            state = load_training_state(Path(source.path)) if going_on and published(source.path) else {}
            if state:
                self._learner.restore(state)
        elif self._learner.config != config:
            state = self._learner.state()
            self._learner = self._made(source, base, config)
            self._learner.restore(state)
        return self._learner

    def beside(self, directory: Path) -> None:
        """Write what belongs into a checkpoint besides the weights: the adapters, where there are any."""
        if self._twin is not None:
            self._twin.save(directory)

    def became(self, version: int) -> None:
        """Note that the weights in memory, as learned, are a version of their own now."""
        assert self._policy is not None, "nothing is resident"
        self._policy = replace(self._policy, version=version)

    def drop(self) -> None:
        """Forget the weights: they are not those of any version, or another one is wanted."""
        self._policy = self._learner = self._twin = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _made(self, source: Source, base: Source, config: UpdateConfig) -> Learner:
        """Make a learner, and say in the log what its updates will take of memory."""
        model, reference = self._learning(source), self._frozen(base, config)
        learner = Learner(model, config, reference, follower=self._twin, free=free)
        log.info("memory of an update: %s", words(learner.plan(self._settings.max_length)))
        return learner

    def _learning(self, source: Source) -> PreTrainedModel:
        """Give the model that learns: the policy's, or its twin."""
        return self.policy(source).model if self._twin is None else self._twin.model

    def _adapt(self, source: Source, base: Source) -> bool:
        """Make the twin; returns whether it goes on with the adapters of that version."""
        lora = LoraSettings(self._settings.lora_rank, self._settings.lora_alpha)
        if adapted(source.path):
            verify(Path(source.path))
            first, made_with = made_of(Path(source.path))
            gone = Path(first).is_absolute() and not Path(first).is_dir()
            if made_with == lora and not gone:
                policy = self.load(base if first == base.path else Source(source.version, first))
                self._policy = replace(policy, version=source.version)
                self._twin = Adapted(self._policy.model, lora, first)
                self._twin.load(Path(source.path))
                return True
            log.warning("version %d has %s on %s; new adapters begin on its weights", source.version, made_with, first)
        self._twin = Adapted(self.policy(source).model, lora, source.path)
        return False

    def load(self, source: Source) -> Policy:
        """Load the policy of a version anew, beside the resident one.

        Raises:
            ValueError: the directory is damaged or incomplete; the message says how.

        """
        if source.version > 0 or published(source.path):  # only a base model may come from elsewhere, without a seal
            verify(Path(source.path))
        log.info("loading policy version %d from %s", source.version, source.path)
        return load_policy(
            source.path,
            version=source.version,
            dtype=getattr(torch, self._settings.dtype),
            device=self._settings.device,
            revision=self._settings.model_revision if source.version == 0 else None,
        )

    def _frozen(self, base: Source, config: UpdateConfig) -> PreTrainedModel | None:
        """Load the reference of the KL term, where there is one, once."""
        if config.objective.beta == 0:
            return None
        if self._reference is None or self._reference.version != base.version:
            self._reference = self.load(base)
        return self._reference.model


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """Made once per process, by the command that becomes the worker."""

    settings: Settings
    store: Store  # three connections or more: the job's, the heartbeat's, the report of an overrun
    redis_url: str  # `redis://...` or `redis+socket://...`, for the hint after a promotion
    resident: Resident
    stopping: threading.Event = field(default_factory=threading.Event)  # set when the process was asked to end
    alarm: Alarm = silent  # ends this process where it hangs and cannot say so
    telemetry: Telemetry = field(default_factory=Silence)  # who hears of grades and updates
    name: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")  # stands on its jobs


def adapted(path: str) -> bool:
    """Whether a version was learned by adapters."""
    return (Path(path) / ADAPTER).is_dir()


def published(path: str) -> bool:
    """Whether a path is a directory that `checkpoint.publish` wrote; a base model from elsewhere is none."""
    return (Path(path) / MANIFEST).is_file()


def update_config(settings: Settings, rate_scale: float = 1.0) -> UpdateConfig:
    """Put together how one update is run.

    Args:
        settings: the service's, with the job's own.
        rate_scale: factor on the learning rate, the back-off after refusals, in (0, 1].

    Raises:
        ValueError: settings contradict each other.

    """
    return UpdateConfig(
        optimizer=OptimizerConfig(
            learning_rate=settings.learning_rate * rate_scale,
            beta1=settings.adam_beta1,
            beta2=settings.adam_beta2,
            weight_decay=settings.weight_decay,
            warmup_updates=settings.warmup_updates,
            decay_updates=settings.decay_updates,
            max_grad_norm=settings.max_grad_norm,
        ),
        objective=ObjectiveConfig(
            beta=settings.kl_beta,
            clip_low=settings.clip_low,
            clip_high=settings.clip_high,
            normalization=settings.normalization,
            max_steps=settings.max_completion_tokens,
            latent_gradient=settings.latent_gradient,
            negative_latent_floor=settings.negative_latent_floor,
            off_policy=settings.off_policy,
            max_weight=settings.max_weight,
            dual_clip=settings.dual_clip,
            latent_off_policy=settings.latent_off_policy,
        ),
        replay=ReplayConfig(latent_temperature=settings.latent_temperature),
        distill=DistillConfig(weight=settings.correction_weight, trust=settings.correction_trust),
        health=HealthConfig(
            max_kl=settings.max_kl,
            min_entropy=settings.min_entropy,
            explosion_norm=settings.max_gradient_norm,
            min_mean_tokens=settings.min_mean_tokens,
            max_mean_tokens=settings.max_mean_tokens,
        ),
        target=Target(settings.temperature or 1.0, settings.top_k, settings.top_p),
        epochs=settings.epochs,
        minibatches=settings.minibatches,
        micro_batch_positions=settings.micro_batch_tokens,
        activation_checkpointing=settings.activation_checkpointing,
        undo=False,  # what an update failed on is dropped with its learner (`worker.learn.carry_out`)
    )
