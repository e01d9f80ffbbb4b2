"""Which tokens a step may draw, as packed bits: one bit per token, the lowest of a byte first.

A constrained answer (a grammar, a JSON Schema) is drawn from the tokens that its text may go on with: all other logits
fall away before temperature and filter, at latent steps as at tokens. The engine that draws and the replay that learns
unpack the same bits by the same function, so what was recorded comes out again. Leaves out who says what is allowed
(`app.engine.grammar`).

Axes: N steps, M distinct masks, Q bytes of a mask (8 tokens each), V vocabulary, S steps of one rollout (latent steps,
then tokens), K candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.rollout import UNCONSTRAINED, Rollout

FORBIDDEN = -1e30  # logit of what may not be drawn, in float32: e^x is 0, and unlike -inf times 0 it is no NaN


def forbidden(bits_NQ: Tensor, vocabulary: int) -> Tensor:
    """Unpack masks to where they forbid a token, bool [N, V]; tokens beyond the bits are forbidden."""
    rows = bits_NQ.shape[0]
    bit_8 = torch.arange(8, device=bits_NQ.device)
    closed_by_byte = (torch.arange(256, device=bits_NQ.device)[:, None] >> bit_8) & 1 == 0
    closed_NV = closed_by_byte[bits_NQ.int()].view(rows, -1)[:, :vocabulary]
    missing = vocabulary - closed_NV.shape[1]
    return torch.nn.functional.pad(closed_NV, (0, missing), value=True) if missing > 0 else closed_NV


@dataclass(frozen=True, slots=True, eq=False)
class Allowed:
    """Masks of some steps: which one each of them has. The first mask allows everything."""

    bits_MQ: Tensor  # uint8 [M, Q], of all steps of a batch; row 0 is all ones
    mask_N: Tensor  # int64 [N], into `bits_MQ`

    def at(self, pick: slice) -> "Allowed":
        """Return the masks of some of the steps."""
        return Allowed(self.bits_MQ, self.mask_N[pick])

    def apply(self, logits_NV: Tensor) -> Tensor:
        """Logits with those of forbidden tokens out of reach; the others keep every bit."""
        return logits_NV.masked_fill(forbidden(self.bits_MQ[self.mask_N], logits_NV.shape[1]), FORBIDDEN)


def allowed_of(rollouts: Sequence[Rollout], device: torch.device) -> tuple[Allowed | None, Allowed | None]:
    """Collect the masks of rollouts' latent steps and tokens, each in a row; None where nothing is constrained."""
    width = max((rollout.masks_MQ.shape[1] for rollout in rollouts), default=0)
    if width == 0:
        return None, None
    parts, latents, tokens = [torch.full((1, width), 255, dtype=torch.uint8)], [], []
    before = 1
    for rollout in rollouts:
        mask_S = step_masks(rollout).long()
        mask_S = torch.where(mask_S == UNCONSTRAINED, 0, mask_S + before)
        latents.append(mask_S[: rollout.latent_length])
        tokens.append(mask_S[rollout.latent_length :])
        parts.append(torch.nn.functional.pad(rollout.masks_MQ, (0, width - rollout.masks_MQ.shape[1])))
        before += len(rollout.masks_MQ)
    bits_MQ = torch.cat(parts).to(device)
    return Allowed(bits_MQ, torch.cat(latents).to(device)), Allowed(bits_MQ, torch.cat(tokens).to(device))


def step_masks(rollout: Rollout) -> Tensor:
    """Mask of every step, int32 [S]: an index into `masks_MQ`, or UNCONSTRAINED."""
    if len(rollout.mask_S):
        return rollout.mask_S
    return torch.full((rollout.latent_length + rollout.answer_length,), UNCONSTRAINED, dtype=torch.int32)


def drawn_as_allowed(rollout: Rollout) -> bool:
    """Whether each step of a rollout drew what its mask allows; True where it has none."""
    mask_S = step_masks(rollout).long()
    if len(mask_S) != rollout.latent_length + rollout.answer_length:
        return False
    if len(mask_S) and not (int(mask_S.min()) >= UNCONSTRAINED and int(mask_S.max()) < len(rollout.masks_MQ)):
        return False
    mask_L1, mask_T1 = mask_S[: rollout.latent_length, None], mask_S[rollout.latent_length :, None]
    kept_LK = rollout.latent_logprobs_LK != float("-inf")
    latents_LK = _may(rollout.masks_MQ, mask_L1, rollout.latent_ids_LK.long()) | ~kept_LK
    return bool(latents_LK.all()) and bool(_may(rollout.masks_MQ, mask_T1, rollout.token_ids_T.long()[:, None]).all())


def _may(masks_MQ: Tensor, mask_N1: Tensor, ids_NK: Tensor) -> Tensor:
    """Whether steps may draw ids, bool [N, K]."""
    if not len(masks_MQ):
        return torch.ones(ids_NK.shape, dtype=torch.bool)
    known_NK = (ids_NK >= 0) & (ids_NK < 8 * masks_MQ.shape[1])
    id_NK = ids_NK.where(known_NK, 0)
    open_NK = (masks_MQ[mask_N1.clamp(min=0), id_NK // 8].int() >> (id_NK % 8).int()) & 1 == 1
    return (open_NK & known_NK) | (mask_N1 == UNCONSTRAINED)
