"""Proof, after a load with swaps, that every stored rollout was drawn by the one version it claims.

Rollouts are read back from the database and replayed on the weights of their version: each recorded log-probability
must come out again. A rollout whose first step is off began on another version's prefix (its prompt's keys and values
were stale); one that is off later was continued by other weights. The same rollouts are also replayed on the wrong
version, where they must not come out: that shows that the check can fail. Leaves out the load (`benchmarks.swap`).

Axes: B rollouts, L latent steps, K candidates, T answer tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from sqlalchemy import select
from torch import Tensor

from app.store.connect import Store
from app.store.tables import Interaction, StoredRollout
from benchmarks.client import Streamed
from benchmarks.timing import significant
from training.codec import decode
from training.models.head import CausalLM
from training.replay import replay
from training.rollout import Rollout

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.15}  # nats; batches of another size round differently
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Audit:
    """What the stored rollouts say."""

    rollouts: int  # read back
    replayed: int  # of them, replayed
    mixed_version_rollouts: int  # more than one version, or not the claimed one
    stale_prefix_hits: int  # first step drawn on another version's prefix
    largest_error: float  # nats, between recorded and replayed, on the claimed version
    wrong_version_error: float  # nats, the least over rollouts, on the other version: must be far above the tolerance


@dataclass(frozen=True, slots=True)
class Errors:
    """Largest differences of each rollout, nats."""

    first_B: Tensor  # at its first step
    any_B: Tensor  # at any step


def audit(
    store: Store,
    streamed: Sequence[Streamed],
    weights: Mapping[int, CausalLM],
    wrong: Mapping[int, CausalLM],
    most: int,
) -> Audit:
    """Check what was stored of the streamed answers.

    Args:
        store: the server's database.
        streamed: the answers as clients saw them.
        weights: of every version that was served.
        wrong: other weights for every version.
        most: rollouts to replay; they are taken evenly over the load.

    """
    rows = stored(store)
    seen = {answer.interaction_id: answer.policy_version for answer in streamed}
    claims = sum(
        row.policy_version != rollout.policy_version
        or row.unlearnable_reason == "mixed_versions"
        or seen.get(shown_id(row), row.policy_version) != row.policy_version
        for row, rollout in rows
    )
    step = max(1, -(-len(rows) // most))
    sample = [rollout for _, rollout in rows[::step]]
    right, other = errors(sample, weights), errors(sample, wrong)
    tolerance = TOLERANCE[next(iter(weights.values())).embedding.weight.dtype]
    stale_B = right.first_B > tolerance
    mixed_B = (right.any_B > tolerance) & ~stale_B
    return Audit(
        rollouts=len(rows),
        replayed=len(sample),
        mixed_version_rollouts=int(claims) + int(mixed_B.sum()),
        stale_prefix_hits=int(stale_B.sum()),
        largest_error=significant(float(right.any_B.max())),
        wrong_version_error=significant(float(other.any_B.min())),
    )


def stored(store: Store) -> list[tuple[Interaction, Rollout]]:
    """Every interaction with its rollout, in the order stored."""
    query = select(Interaction, StoredRollout).join(StoredRollout).order_by(Interaction.id)
    with store.session() as session:
        return [(row, decode(trace.payload)) for row, trace in session.execute(query)]


def shown_id(row: Interaction) -> str:
    """Id of an interaction as clients know it."""
    from app.identifiers import show

    return show("int", row.id)


def errors(rollouts: Sequence[Rollout], weights: Mapping[int, CausalLM]) -> Errors:
    """Replay each rollout on its version's weights."""
    first: list[Tensor] = []
    anywhere: list[Tensor] = []
    for version, model in weights.items():
        mine = [one for one in rollouts if one.policy_version == version and one.answer_length + one.latent_length]
        for start in range(0, len(mine), _BATCH):
            part = _errors(mine[start : start + _BATCH], model)
            first.append(part.first_B)
            anywhere.append(part.any_B)
    return Errors(torch.cat(first), torch.cat(anywhere))


@torch.no_grad()
def _errors(rollouts: Sequence[Rollout], model: CausalLM) -> Errors:
    """One batch. Latent log-probabilities were recorded inside the filter; its mass makes them whole."""
    again = replay(model, rollouts)
    first, anywhere = [], []
    for row, rollout in enumerate(rollouts):
        latents, tokens = rollout.latent_length, rollout.answer_length
        steps: list[Tensor] = []
        if latents:
            width = rollout.latent_ids_LK.shape[1]
            recorded_LK = rollout.latent_logprobs_LK + rollout.latent_log_mass_L[:, None]
            replayed_LK = again.latent_logprobs_BLK[row, :latents, :width].cpu()
            kept_LK = rollout.latent_weights_LK > 0
            steps.append(torch.where(kept_LK, (replayed_LK - recorded_LK).abs(), 0.0).amax(-1))
        replayed_T = again.token_logprobs_BT[row, :tokens].cpu()
        steps.append((replayed_T - rollout.token_logprobs_T).abs())
        errors_S = torch.cat([step.double() for step in steps]).nan_to_num(nan=float("inf"))
        first.append(errors_S[0])
        anywhere.append(errors_S.max())
    return Errors(torch.stack(first), torch.stack(anywhere))
