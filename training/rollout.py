"""A rollout: everything replay needs of one answer, exactly as it was sampled.

Record what was sampled, not what could be recomputed: the kept ids and weights of each latent step are the executed
input, and the log-probabilities are those of the policy that drew them. The byte form is `training.codec`'s.

Axes: P prompt tokens, L latent steps, K candidates kept per latent step, T answer tokens.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from training.sampling import Sampling

StopReason = Literal["stop", "length", "cancelled", "deadline"]


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One answer: its prompt, its latent steps, its tokens, and the policy that drew them.

    `prompt` | `latents` | `tokens` is the executed sequence. The token that ended the answer (end of sequence, or the
    last token of a stop string) is in `token_ids_T`.
    """

    prompt_ids_P: Tensor  # int32 [P], P >= 1
    latent_ids_LK: Tensor  # int32 [L, K]; K is the widest support of this answer, 0 when L is; 0 outside the support
    latent_weights_LK: Tensor  # float32 [L, K], z; 0 outside the support
    latent_logprobs_LK: Tensor  # float32 [L, K], log pi~; -inf outside the support
    latent_log_mass_L: Tensor  # float32 [L], log of the probability the filter left, at the temperature
    token_ids_T: Tensor  # int32 [T]
    token_logprobs_T: Tensor  # float32 [T], over the whole vocabulary at the temperature
    token_log_mass_T: Tensor  # float32 [T]
    sampling: Sampling  # settings of this answer, its own seed included
    policy_version: int  # version of the weights that drew every step, >= 0
    stop_reason: StopReason
    altered: bool = False  # True when logit_bias or min_tokens bent the distribution: served, never learned from

    @property
    def latent_length(self) -> int:
        """Latent steps executed; less than `sampling.latent_length` when the answer was cut short."""
        return self.latent_ids_LK.shape[0]

    @property
    def answer_length(self) -> int:
        """Answer tokens, the ending token included."""
        return self.token_ids_T.shape[0]

    @property
    def truncated(self) -> bool:
        """Whether it was cut short, so that nobody knows what the answer would have been."""
        return self.stop_reason != "stop"

    @property
    def reading_L(self) -> Tensor:
        """Nearest token of each latent step: the mode of z (int32 [L]). For display; it was not executed."""
        if self.latent_length == 0:
            return self.latent_ids_LK.new_empty(0)
        return self.latent_ids_LK.gather(1, self.latent_weights_LK.argmax(-1, keepdim=True)).squeeze(1)


def trimmed(ids_LK: Tensor, weights_LK: Tensor, logprobs_LK: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cut drawn candidates to the widest support, and write id 0 outside each support, as `Rollout` records them.

    Args:
        ids_LK: integer [L, K'], candidates by falling probability, K' as wide as they were drawn.
        weights_LK: float [L, K'].
        logprobs_LK: float [L, K'], -inf outside the support.

    Returns:
        The three cut to [L, K]; an answer without latent steps has K = 0.

    """
    inside_LK = logprobs_LK != float("-inf")
    width = int(inside_LK.sum(-1).max()) if inside_LK.numel() else 0
    ids_LK = ids_LK.masked_fill(~inside_LK, 0)
    return ids_LK[:, :width], weights_LK[:, :width], logprobs_LK[:, :width]
