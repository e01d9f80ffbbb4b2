"""From settings to the configuration of an update.

Leaves out what the values mean (`app.settings`, `training.objective`, `training.optimizer`).
"""

from app.settings import Settings
from training.distill import DistillConfig
from training.health import HealthConfig
from training.objective import ObjectiveConfig
from training.optimizer import OptimizerConfig
from training.replay import ReplayConfig
from training.sampling import Target
from training.update import UpdateConfig


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
