"""A rollout: everything replay needs of one answer, exactly as it was sampled.

Record what was sampled, not what could be recomputed: the kept ids and weights of each latent step are the executed
input, and the log-probabilities are those of the policy that drew them. The byte form is `training.codec`'s.

Axes: P prompt tokens, L latent steps, K candidates kept per latent step, O tokens of the lead-out, T answer tokens,
S = L + T steps that were drawn, M distinct masks, Q bytes of a mask.
"""

from dataclasses import dataclass, field
from typing import Final, Literal

import torch
from torch import Tensor

from training.placement import Placement, PlacementName
from training.sampling import Sampling

StopReason = Literal["stop", "length", "cancelled", "deadline"]
UNCONSTRAINED: Final = -1  # in `mask_S`: the step could draw any token


def nothing() -> Tensor:
    """No token ids, int32 [0]."""
    return torch.empty(0, dtype=torch.int32)


def no_masks() -> Tensor:
    """No masks, uint8 [0, 0]."""
    return torch.empty((0, 0), dtype=torch.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Rollout:
    """One answer: its prompt, its latent steps, its tokens, and the policy that drew them.

    `prompt` | `latents` | `lead-out` | `tokens` is the executed sequence; the prompt's end may be a lead-in (see
    `training.placement`). The token that ended the answer (end of sequence, or the last token of a stop string) is in
    `token_ids_T`.
    """

    prompt_ids_P: Tensor  # int32 [P], P >= 1, the lead-in at its end
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
    altered: bool = False  # True when logit_bias, min_tokens or a penalty bent the distribution: never learned from
    placement: PlacementName = "answer"  # where the latent steps sat; "answer" where there were none
    lead_in: int = 0  # tokens at the end of the prompt that were put there before the latent steps
    lead_out_ids_O: Tensor = field(default_factory=nothing)  # int32 [O], executed after them: given, not drawn
    masks_MQ: Tensor = field(default_factory=no_masks)  # uint8 [M, Q], see `training.allowed`; M = 0: unconstrained
    mask_S: Tensor = field(default_factory=nothing)  # int32 [S], mask of each step, or -1; [0] where M is 0

    @property
    def latent_length(self) -> int:
        """Latent steps executed; less than `sampling.latent_length` when the answer was cut short."""
        return self.latent_ids_LK.shape[0]

    @property
    def begin(self) -> int:
        """Executed position of the first answer token."""
        return self.prompt_ids_P.shape[0] + self.latent_length + self.lead_out_ids_O.shape[0]

    @property
    def asked_ids_P(self) -> Tensor:
        """The prompt without the lead-in, int32 [P - lead_in]."""
        return self.prompt_ids_P[: self.prompt_ids_P.shape[0] - self.lead_in]

    @property
    def placed(self) -> Placement:
        """Where its latent steps sat, so that another answer to its prompt may have them there too."""
        own = tuple(self.prompt_ids_P[self.prompt_ids_P.shape[0] - self.lead_in :].tolist())
        return Placement(self.placement, own, tuple(self.lead_out_ids_O.tolist()))

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
