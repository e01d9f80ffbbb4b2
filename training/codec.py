"""The byte form of a rollout: versioned, checked, exact to the bit, without pickle.

A latent step keeps only its support: ids, weights and log pi~ up to its last candidate, 12 bytes each, so 64 steps of
30 candidates take 23.5 KB. What lies outside the support carries nothing and comes back as id 0, weight 0,
log-probability -inf. Leaves out compression (random mantissas do not shrink) and storage.

Layout, little-endian: magic, codec version, payload length, CRC-32 of the payload; then the payload: the fixed fields
of `_FIXED`, the support size of each latent step, and the arrays in the order in which `encode` writes them. The masks
of a constrained answer come last, each as what differs from the one before, by zlib: most of them say nearly the same.

Axes: P prompt tokens, L latent steps, K candidates, O tokens of the lead-out, T answer tokens, N candidates of all
latent steps together, M masks, Q bytes of a mask, S steps.
"""

import struct
import sys
import zlib
from types import MappingProxyType
from typing import NamedTuple, TypeVar, get_args

import numpy as np
import torch
from torch import Tensor

from training.placement import PlacementName
from training.rollout import Rollout, StopReason
from training.sampling import Sampling

Word = TypeVar("Word", StopReason, PlacementName)

CODEC_VERSION = 4  # 1 knew no `draws`: each latent step was one sample; 2 no placement; 3 no masks and no min-p
_MAGIC = b"LEPO"
_HEADER = struct.Struct("<4sHII")  # magic, version, payload length, CRC-32
_FIXED = struct.Struct("<IIIIIdddQQQBBIBIIdIII")
_LAYOUTS = MappingProxyType(
    {
        1: struct.Struct("<IIIIIdddQQQBB"),
        2: struct.Struct("<IIIIIdddQQQBBI"),
        3: struct.Struct("<IIIIIdddQQQBBIBII"),
        CODEC_VERSION: _FIXED,
    }
)
_STOP_REASONS: tuple[StopReason, ...] = get_args(StopReason)  # stored by position: append only
_PLACEMENTS: tuple[PlacementName, ...] = get_args(PlacementName)  # likewise
_NEG_INF = float("-inf")
_QUICK = 1  # of zlib: level 6 takes several times as long for masks little smaller


class _Fixed(NamedTuple):
    """Fields of constant size, in the order of `_FIXED`."""

    prompt: int  # P
    latents: int  # L executed
    width: int  # K
    answer: int  # T
    latent_length: int  # L asked for
    tau: float
    temperature: float
    top_p: float
    top_k: int
    seed: int
    policy_version: int
    stop_reason: int  # position in `_STOP_REASONS`
    altered: int  # 0 or 1
    draws: int = 1
    placement: int = 0  # position in `_PLACEMENTS`
    lead_in: int = 0
    lead_out: int = 0  # O
    min_p: float = 0.0
    masks: int = 0  # M
    mask_bytes: int = 0  # Q
    packed: int = 0  # bytes of the packed masks


def encode(rollout: Rollout) -> bytes:
    """Turn a rollout into bytes that `decode` turns back.

    Raises:
        ValueError: a tensor has the wrong dtype or shape, or a number does not fit; the message names the field.

    """
    _check(rollout)
    sizes_L = _support_sizes(rollout)
    kept_LK = _inside(sizes_L, rollout.latent_ids_LK.shape[1])
    settings = rollout.sampling
    packed = _packed(rollout.masks_MQ)
    fixed = _Fixed(
        rollout.prompt_ids_P.shape[0],
        rollout.latent_length,
        rollout.latent_ids_LK.shape[1],
        rollout.answer_length,
        settings.latent_length,
        settings.tau,
        settings.temperature,
        settings.top_p,
        settings.top_k,
        settings.seed,
        rollout.policy_version,
        _STOP_REASONS.index(rollout.stop_reason),
        int(rollout.altered),
        settings.draws,
        _PLACEMENTS.index(rollout.placement),
        rollout.lead_in,
        rollout.lead_out_ids_O.shape[0],
        settings.min_p,
        rollout.masks_MQ.shape[0],
        rollout.masks_MQ.shape[1],
        len(packed),
    )
    try:
        parts = [_FIXED.pack(*fixed)]
    except struct.error as error:
        raise ValueError(f"a number of this rollout is negative or too large to encode ({error}): {fixed}") from error
    latents = (rollout.latent_ids_LK, rollout.latent_weights_LK, rollout.latent_logprobs_LK)
    steps = (rollout.latent_log_mass_L, rollout.prompt_ids_P)
    answer = (rollout.token_ids_T, rollout.token_logprobs_T, rollout.token_log_mass_T)
    kept = (array_LK.cpu()[kept_LK] for array_LK in latents)
    arrays = (sizes_L.to(torch.int32), *kept, *steps, *answer, rollout.lead_out_ids_O, rollout.mask_S)
    parts += [_bytes(array) for array in arrays]
    payload = b"".join([*parts, packed])
    return _HEADER.pack(_MAGIC, CODEC_VERSION, len(payload), zlib.crc32(payload)) + payload


def decode(data: bytes) -> Rollout:
    """Turn bytes of `encode`, this release's or an older one's, back into the rollout, bit for bit.

    Raises:
        ValueError: the bytes are no rollout, of another codec version, cut short, or damaged.

    """
    layout, payload = _payload(data)
    fixed = _Fixed(*layout.unpack_from(payload))
    reader = _Reader(payload, layout.size)
    sizes_L = reader.take(torch.int32, fixed.latents).long()
    if fixed.latents and not (int(sizes_L.min()) >= 0 and int(sizes_L.max()) <= fixed.width):
        raise ValueError("rollout bytes are damaged: a support is wider than the rollout")
    kept_LK = _inside(sizes_L, fixed.width)
    total = int(sizes_L.sum())
    ids_LK = _spread(kept_LK, reader.take(torch.int32, total), 0)
    weights_LK = _spread(kept_LK, reader.take(torch.float32, total), 0.0)
    logprobs_LK = _spread(kept_LK, reader.take(torch.float32, total), _NEG_INF)
    log_mass_L = reader.take(torch.float32, fixed.latents)
    rollout = Rollout(
        prompt_ids_P=reader.take(torch.int32, fixed.prompt),
        latent_ids_LK=ids_LK,
        latent_weights_LK=weights_LK,
        latent_logprobs_LK=logprobs_LK,
        latent_log_mass_L=log_mass_L,
        token_ids_T=reader.take(torch.int32, fixed.answer),
        token_logprobs_T=reader.take(torch.float32, fixed.answer),
        token_log_mass_T=reader.take(torch.float32, fixed.answer),
        sampling=_sampling(fixed),
        policy_version=fixed.policy_version,
        stop_reason=_named(_STOP_REASONS, fixed.stop_reason, "stop reason"),
        altered=bool(fixed.altered),
        placement=_named(_PLACEMENTS, fixed.placement, "placement"),
        lead_in=fixed.lead_in,
        lead_out_ids_O=reader.take(torch.int32, fixed.lead_out),
        mask_S=reader.take(torch.int32, fixed.latents + fixed.answer if fixed.masks else 0),
        masks_MQ=_unpacked(reader.take(torch.uint8, fixed.packed), fixed.masks, fixed.mask_bytes),
    )
    reader.finish()
    return rollout


def _packed(masks_MQ: Tensor) -> bytes:
    """Pack masks; nothing for none."""
    if not len(masks_MQ):
        return b""
    before_MQ = torch.nn.functional.pad(masks_MQ, (0, 0, 1, 0))[:-1]
    return zlib.compress(_bytes(masks_MQ ^ before_MQ), _QUICK)


def _unpacked(packed: Tensor, masks: int, width: int) -> Tensor:
    """Unpack masks, [M, Q]; never more than there should be."""
    if not masks:
        return torch.empty((0, width), dtype=torch.uint8)
    try:
        data = zlib.decompressobj().decompress(packed.numpy().tobytes(), masks * width + 1)
    except zlib.error as error:
        raise ValueError(f"rollout bytes are damaged: its masks do not unpack ({error})") from error
    if len(data) != masks * width or not width:
        raise ValueError("rollout bytes are damaged: its masks have another size")
    apart_MQ = np.frombuffer(data, dtype=np.uint8).reshape(masks, width)
    return torch.from_numpy(np.bitwise_xor.accumulate(apart_MQ, axis=0))


def _support_sizes(rollout: Rollout) -> Tensor:
    """Candidates of each step up to the last that has weight or probability (int64 [L])."""
    held_LK = (rollout.latent_weights_LK != 0) | (rollout.latent_logprobs_LK != _NEG_INF)
    rank_K = torch.arange(1, held_LK.shape[1] + 1, device=held_LK.device)
    if held_LK.numel() == 0:
        return torch.zeros(held_LK.shape[0], dtype=torch.int64)
    return (held_LK * rank_K).amax(-1).cpu()


def _inside(sizes_L: Tensor, width: int) -> Tensor:
    """Mask [L, K] of the first `size` candidates of each step."""
    return torch.arange(width) < sizes_L[:, None]


def _spread(kept_LK: Tensor, values_N: Tensor, outside: float) -> Tensor:
    """Put stored candidates back in their places, `outside` in all others."""
    spread_LK = torch.full(kept_LK.shape, outside, dtype=values_N.dtype)
    spread_LK[kept_LK] = values_N
    return spread_LK


def _check(rollout: Rollout) -> None:
    """Refuse what could not come back exactly."""
    steps, width = rollout.latent_length, rollout.latent_ids_LK.shape[-1]
    count = rollout.answer_length
    expected = {
        "prompt_ids_P": (torch.int32, rollout.prompt_ids_P.shape[:1]),
        "latent_ids_LK": (torch.int32, (steps, width)),
        "latent_weights_LK": (torch.float32, (steps, width)),
        "latent_logprobs_LK": (torch.float32, (steps, width)),
        "latent_log_mass_L": (torch.float32, (steps,)),
        "token_ids_T": (torch.int32, (count,)),
        "token_logprobs_T": (torch.float32, (count,)),
        "token_log_mass_T": (torch.float32, (count,)),
        "lead_out_ids_O": (torch.int32, rollout.lead_out_ids_O.shape[:1]),
        "masks_MQ": (torch.uint8, rollout.masks_MQ.shape[:2]),
        "mask_S": (torch.int32, (steps + count if len(rollout.masks_MQ) else 0,)),
    }
    for name, (dtype, shape) in expected.items():
        tensor: Tensor = getattr(rollout, name)
        if tensor.dtype != dtype or tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"{name} must be {dtype} {list(shape)}, got {tensor.dtype} {list(tensor.shape)}")


def _payload(data: bytes) -> tuple[struct.Struct, bytes]:
    """Check the header and the checksum; return how the fixed fields are laid out, and what they begin."""
    if len(data) < _HEADER.size:
        raise ValueError(f"rollout bytes are cut short: {len(data)} bytes do not hold a header")
    magic, version, length, checksum = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("these bytes are no rollout: they do not begin with LEPO")
    layout = _LAYOUTS.get(version)
    if layout is None:
        raise ValueError(f"rollout codec version {version} is unknown; this release reads versions to {CODEC_VERSION}")
    payload = data[_HEADER.size :]
    if len(payload) != length:
        raise ValueError(f"rollout bytes are cut short or have a tail: {len(payload)} bytes where {length} belong")
    if zlib.crc32(payload) != checksum or length < layout.size:
        raise ValueError("rollout bytes are damaged: the checksum does not match")
    return layout, payload


def _sampling(fixed: _Fixed) -> Sampling:
    return Sampling(
        latent_length=fixed.latent_length,
        tau=fixed.tau,
        temperature=fixed.temperature,
        top_k=fixed.top_k,
        top_p=fixed.top_p,
        seed=fixed.seed,
        draws=fixed.draws,
        min_p=fixed.min_p,
    )


def _named(words: tuple[Word, ...], position: int, what: str) -> Word:
    if position >= len(words):
        raise ValueError(f"rollout bytes name {what} {position}, which this release does not know")
    return words[position]


def _bytes(array: Tensor) -> bytes:
    assert sys.byteorder == "little", "the codec writes native arrays, which must be little-endian"
    return array.cpu().contiguous().numpy().tobytes()


class _Reader:
    """Takes arrays off a payload, one after the other."""

    def __init__(self, payload: bytes, offset: int) -> None:
        self._buffer = bytearray(payload)  # writable, as torch.frombuffer asks
        self._offset = offset

    def take(self, dtype: torch.dtype, count: int) -> Tensor:
        """Next `count` elements, in memory of their own."""
        end = self._offset + count * dtype.itemsize
        if end > len(self._buffer):
            raise ValueError("rollout bytes are damaged: an array runs past the end")
        if count == 0:
            return torch.empty(0, dtype=dtype)
        array = torch.frombuffer(self._buffer, dtype=dtype, count=count, offset=self._offset).clone()
        self._offset = end
        return array

    def finish(self) -> None:
        """Require that every byte was read."""
        if self._offset != len(self._buffer):
            raise ValueError("rollout bytes are damaged: bytes are left over")
