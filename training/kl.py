"""How far two policies are apart on a recorded step, from the log-probabilities of what was drawn.

A token gives an estimate from one sample; a latent step, whose kept ids were all recorded, gives the exact KL of a
coarser distribution. Neither needs the vocabulary.

Axes: K candidates.
"""

from torch import Tensor

MAX_LOG_RATIO = 20.0  # keeps exp finite in float32; far outside every clip and every truncation
_LEAST_MASS = 1e-7  # of everything outside the kept ids; keeps its logarithm finite


def k3(sampler_logprobs: Tensor, policy_logprobs: Tensor) -> Tensor:
    """Estimate KL(sampler || policy) per sample: r - 1 - log r with r = policy / sampler; unbiased, never negative.

    Source: Schulman, "Approximating KL Divergence" (2020), estimator k3.
    """
    log_ratio = (policy_logprobs - sampler_logprobs).clamp(max=MAX_LOG_RATIO)
    return log_ratio.expm1() - log_ratio


def kept_kl(old_logprobs_K: Tensor, new_logprobs_K: Tensor, kept_K: Tensor) -> Tensor:
    """KL(old || new) over {each kept id, everything else}: a lower bound of the KL over the vocabulary.

    Everything else is one more outcome, not left out by renormalising: a policy that moves its probability away from
    all kept ids at once has moved, and renormalised over them it would look as before.

    Args:
        old_logprobs_K: float [..., K]; anything where nothing is kept.
        new_logprobs_K: float [..., K].
        kept_K: bool [..., K].

    Returns:
        float64 [...], nats, 0 or more up to rounding.

    """
    old_K, new_K = (one.double().masked_fill(~kept_K, 0.0) for one in (old_logprobs_K, new_logprobs_K))
    p_K, q_K = old_K.exp() * kept_K, new_K.exp() * kept_K
    rest_p, rest_q = ((1.0 - one.sum(-1)).clamp(min=_LEAST_MASS) for one in (p_K, q_K))
    return (p_K * (old_K - new_K)).sum(-1) + rest_p * (rest_p.log() - rest_q.log())
