"""How far a step moved the policy: against the exact KL over the whole vocabulary, and the estimate written out."""

import pytest
import torch

from training.models.head import take_apart
from training.optimization.probe import look, movement, spread
from training.replay import ReplayConfig, replay
from training.sampling import Sampling

from .rollouts import VOCABULARY, group, mixed_batch, moved, tiny

CONFIG = ReplayConfig()


def exact_latent_kl(sampling: Sampling, size: float) -> tuple[float, float]:
    """The probe's KL and the exact one, KL(before || after), on answers cut down to their latent steps."""
    before, after = take_apart(tiny()), take_apart(moved(tiny(), size))
    rollouts = group(tiny(), 5, sampling, [5, 6, 7], sampling.latent_length)
    found = movement(look(before, rollouts, CONFIG, 1000), look(after, rollouts, CONFIG, 1000))
    with torch.no_grad():
        exact = replay(before, rollouts, CONFIG, after)
    return found.kl, float(exact.latent_kl_BL.mean())


def test_with_every_id_kept_the_latent_kl_is_exact() -> None:
    found, exact = exact_latent_kl(Sampling(latent_length=3, top_k=VOCABULARY, top_p=1.0, tau=1.0), 0.05)
    assert exact > 0.05
    assert found == pytest.approx(exact, rel=1e-4)


def test_with_few_ids_kept_it_is_a_lower_bound() -> None:
    found, exact = exact_latent_kl(Sampling(latent_length=3, top_k=3), 0.05)
    assert 0.2 * exact < found < exact


def test_with_one_id_kept_it_is_the_kl_of_two_coins() -> None:
    """That id or anything else: the rest counts as much as what was kept."""
    before, after = take_apart(tiny()), take_apart(moved(tiny(), 0.05))
    rollouts = group(tiny(), 5, Sampling(latent_length=3, top_k=1), [5, 6, 7], 3)
    looks = [look(one, rollouts, CONFIG, 1000) for one in (before, after)]
    p, q = (one[0].latent_logprobs_BLK[:, :, 0].double().exp() for one in looks)
    coins = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert movement(*looks).kl == pytest.approx(float(coins.mean()), rel=1e-4)


def test_tokens_and_latents_share_one_mean() -> None:
    before, after = take_apart(tiny()), take_apart(moved(tiny(), 0.02))
    rollouts = mixed_batch()
    looks = [look(one, rollouts, CONFIG, 40) for one in (before, after)]
    assert len(looks[0]) > 1, "several micro-batches"
    found = movement(*looks)
    with torch.no_grad():
        old, new = replay(before, rollouts), replay(after, rollouts)
    log_ratio = (new.token_logprobs_BT - old.token_logprobs_BT)[old.token_mask_BT].double()
    tokens = float((log_ratio.exp() - 1 - log_ratio).sum())
    only_latents = [one for one in rollouts if not one.answer_length]
    assert only_latents
    steps = int(old.token_mask_BT.sum()) + int(old.latent_mask_BL.sum())
    assert found.kl > tokens / steps, "latent steps add to it"
    assert found.entropy_before == pytest.approx(float(old.token_entropy_BT[old.token_mask_BT].mean()), rel=1e-5)
    assert found.entropy_after == pytest.approx(float(new.token_entropy_BT[new.token_mask_BT].mean()), rel=1e-5)


def test_nothing_moved_is_zero() -> None:
    model = take_apart(tiny())
    looks = [look(model, mixed_batch(), CONFIG, 1000) for _ in range(2)]
    assert movement(*looks).kl == pytest.approx(0.0, abs=1e-9)


def test_the_probe_is_spread_over_the_batch() -> None:
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 8) == [0, 1, 2]
