"""Which settings one training job may change for itself, and what they come to.

Used by the route that takes a job and by the worker that runs it, so both refuse the same. Leaves out the settings
themselves (`app.settings`).
"""

from collections.abc import Mapping
from typing import Any, Final

from app.settings import Settings

# What one job may do differently from the service: never where things live, nor the model.
OF_A_JOB: Final = frozenset(
    {
        *("min_grades", "max_grades", "max_divergence", "key_share", "baseline", "group_grace", "resample"),
        *("learning_rate", "adam_beta1", "adam_beta2", "weight_decay", "warmup_updates", "decay_updates"),
        *(
            "max_grad_norm",
            "off_policy",
            "clip_low",
            "clip_high",
            "dual_clip",
            "max_weight",
            "latent_off_policy",
            "kl_beta",
        ),
        *("correction_weight", "correction_trust", "correction_draws", "epochs", "minibatches"),
        *("negative_latent_floor", "latent_gradient", "normalization", "overlong", "latent_temperature"),
        *("micro_batch_tokens", "activation_checkpointing"),
        *(
            "gate_margin",
            "gate_alpha",
            "gate_answers",
            "gate_seconds",
            "gate_corrections",
            "gate_collapse",
            "gate_no_signal",
        ),
        *("max_kl", "min_entropy", "phase_deadline", "stall_deadline"),
        *("max_gradient_norm", "min_mean_tokens", "max_mean_tokens"),
    }
)


def of_job(settings: Settings, wishes: Mapping[str, Any]) -> Settings:
    """Apply a job's own settings.

    Raises:
        ValueError: a setting is not a job's to choose, or out of its range; the message names it.

    """
    if foreign := sorted(set(wishes) - OF_A_JOB):
        raise ValueError(f"a job cannot set {', '.join(foreign)}; it may set {', '.join(sorted(OF_A_JOB))}")
    return Settings.model_validate({**settings.model_dump(), **wishes})
