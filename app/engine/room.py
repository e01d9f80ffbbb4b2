"""How many blocks of keys and values an engine keeps: what its answers can need, as far as memory goes.

The pool is made once, at start, for all resident versions. It may take a share of what is free on the device, room for
another version's weights set aside; on a CPU a page of it is taken only when it is first written. `LEPO_CACHE_TOKENS`
overrides that.
"""

from typing import Final

from app.decoder.anatomy import Anatomy
from app.decoder.cache import BLOCK, blocks_for, bytes_per_block
from app.engine.config import EngineConfig
from app.models.host import free
from training.models.policy import Policy

_SHARE: Final = 0.8  # of what is free; the rest is for activations and for others


def blocks_of_pool(policy: Policy, anatomy: Anatomy, config: EngineConfig, max_length: int) -> int:
    """Say how many blocks to make, the one that is nobody's included.

    Raises:
        MemoryError: not even one answer of the longest kind fits; the message says what to do.

    """
    least = 2 + blocks_for(max_length)
    if config.cache_tokens:
        return max(1 + blocks_for(config.cache_tokens), least)
    size = bytes_per_block(anatomy.layers)
    room = int(_SHARE * _free(policy, config))
    if room < least * size:
        raise MemoryError(
            f"one answer of {max_length} positions takes {least * size / 2**30:.2f} GiB of keys and values, and "
            f"{room / 2**30:.2f} GiB are left for them: lower LEPO_MAX_LENGTH"
        )
    return min(blocks_wanted(config, max_length), room // size)


def blocks_wanted(config: EngineConfig, max_length: int) -> int:
    """Count the blocks with which nobody would ever wait for one: every slot's longest answer, and prefixes kept."""
    return 1 + config.slots * (blocks_for(max_length) + 1) + config.prefix_cache_tokens // BLOCK


def in_words(policy: Policy, anatomy: Anatomy, config: EngineConfig, count: int) -> str:
    """Say what was planned: weights, keys and values, and how many of the longest answers these hold."""
    weights = sum(one.numel() * one.element_size() for one in policy.model.parameters())
    versions = 2 if config.swap_mode == "two_versions" else 1
    length = min(config.max_length, anatomy.positions or config.max_length)
    pool, answers = count * bytes_per_block(anatomy.layers) / 2**30, count // blocks_for(length)
    return (
        f"{weights / 2**30:.2f} GiB of weights a version, {versions} of them; {count:,} blocks of {BLOCK} positions, "
        f"{pool:.2f} GiB, which hold {answers} answers of {length:,} positions"
    )


def _free(policy: Policy, config: EngineConfig) -> int:
    """Count the bytes that are free where the model is, once another version's weights would be there too."""
    parameters = policy.model.parameters()
    weights = sum(one.numel() * one.element_size() for one in parameters) if config.swap_mode == "two_versions" else 0
    return max(0, free(policy.device) - weights)
