"""Bytes and back: the same rollout to the bit, and a clear refusal of anything else."""

import dataclasses
import random
import struct
import zlib
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from training.codec import CODEC_VERSION, decode, encode
from training.models.policy import Policy
from training.placement import PlacementName
from training.rollout import Rollout, StopReason
from training.sample import sample
from training.sampling import Sampling

PLACEMENTS: tuple[PlacementName, ...] = ("answer", "thinking", "preamble")
STOP_REASONS: tuple[StopReason, ...] = ("stop", "length", "cancelled", "deadline")
HEADER = struct.Struct("<4sHII")
GOLDEN_1 = (
    "4c45504f01009e000000720b38f20300000002000000020000000200000003000000000000000000e03f000000000000e83f"
    "666666666666ee3f1e0000000000000007000000000000000400000000000000020102000000010000000700000008000000"
    "030000000000403f0000803e0000803f000000bf0000c0bf00000000000000be000000000100000005000000090000000400"
    "000002000000000080bf000000c0000080be000000bf"
)

GOLDEN_2 = (
    "4c45504f0200a2000000e92644ff0300000002000000020000000200000003000000000000000000e03f000000000000e8"
    "3f666666666666ee3f1e000000000000000700000000000000040000000000000002010400000002000000010000000700"
    "000008000000030000000000403f0000803e0000803f000000bf0000c0bf00000000000000be0000000001000000050000"
    "00090000000400000002000000000080bf000000c0000080be000000bf"
)

GOLDEN_3 = (
    "4c45504f0300b3000000410cd2900300000002000000020000000200000003000000000000000000e03f000000000000e8"
    "3f666666666666ee3f1e000000000000000700000000000000040000000000000002010400000002010000000200000002"
    "000000010000000700000008000000030000000000403f0000803e0000803f000000bf0000c0bf00000000000000be0000"
    "00000100000005000000090000000400000002000000000080bf000000c0000080be000000bf0600000002000000"
)

GOLDEN = (
    "4c45504f0400e3000000736941bf0300000002000000020000000200000003000000000000000000e03f000000000000e8"
    "3f666666666666ee3f1e000000000000000700000000000000040000000000000002010400000002010000000200000000"
    "0000000000d03f02000000020000000c00000002000000010000000700000008000000030000000000403f0000803e0000"
    "803f000000bf0000c0bf00000000000000be000000000100000005000000090000000400000002000000000080bf000000"
    "c0000080be000000bf060000000200000000000000ffffffff01000000010000007801fbcff887110005fc01fe"
)


def make_rollout(rng: random.Random, latents: int, width: int, answer: int) -> Rollout:
    """A rollout of any shape with ragged supports and every bit pattern a float may have."""
    generator = torch.Generator().manual_seed(rng.randrange(2**32))

    def ids(*shape: int) -> Tensor:
        return torch.randint(-(2**31), 2**31, shape, dtype=torch.int32, generator=generator)

    def floats(*shape: int) -> Tensor:
        return ids(*shape).view(torch.float32)

    sizes_L = torch.tensor([rng.randint(1, width) for _ in range(latents)], dtype=torch.int64)
    outside_LK = torch.arange(width) >= sizes_L[:, None]
    logprobs_LK = -torch.rand(latents, width, generator=generator)  # a support never ends in -inf
    masks = rng.choice([0, 0, 1, 5])
    return Rollout(
        prompt_ids_P=ids(rng.randint(1, 40)),
        latent_ids_LK=ids(latents, width).masked_fill(outside_LK, 0),
        latent_weights_LK=floats(latents, width).masked_fill(outside_LK, 0.0),
        latent_logprobs_LK=logprobs_LK.masked_fill(outside_LK, -torch.inf),
        latent_log_mass_L=floats(latents),
        token_ids_T=ids(answer),
        token_logprobs_T=floats(answer),
        token_log_mass_T=floats(answer),
        sampling=Sampling(
            latent_length=latents + rng.randint(0, 3),
            tau=rng.uniform(1e-6, 10.0),
            temperature=rng.choice([0.0, rng.uniform(0.01, 10.0)]),
            top_k=rng.choice([1, 30, 2**40]),
            top_p=rng.uniform(1e-9, 1.0),
            seed=rng.randrange(2**63),
            draws=rng.randint(1, 64),
            min_p=rng.choice([0.0, rng.random()]),
        ),
        policy_version=rng.randrange(2**40),
        stop_reason=rng.choice(STOP_REASONS),
        altered=rng.random() < 0.5,
        placement=rng.choice(PLACEMENTS),
        lead_in=rng.randrange(5),
        lead_out_ids_O=ids(rng.randint(0, 6)),
        masks_MQ=torch.randint(0, 256, (masks, 40 if masks else 0), dtype=torch.uint8, generator=generator),
        mask_S=torch.randint(-1, max(1, masks), (latents + answer if masks else 0,), dtype=torch.int32),
    )


def changed(rollout: Rollout, field: str, value: Any) -> Rollout:
    """The rollout with another value in one field."""
    return replace(rollout, **{field: value})


def bits(value: object) -> object:
    """What must be equal: dtype, shape and bits of a tensor, anything else as it is."""
    return (value.dtype, value.shape, value.numpy().tobytes()) if isinstance(value, Tensor) else value


def assert_identical(ours: Rollout, theirs: Rollout) -> None:
    for field in dataclasses.fields(Rollout):
        assert bits(getattr(ours, field.name)) == bits(getattr(theirs, field.name)), field.name


@pytest.fixture
def data() -> bytes:
    return encode(make_rollout(random.Random(5), 6, 9, 12))


@pytest.mark.parametrize("seed", range(200))
def test_a_round_trip_is_exact(seed: int) -> None:
    rng = random.Random(seed)
    rollout = make_rollout(rng, rng.choice([0, 1, 7, 64]), rng.choice([1, 2, 30]), rng.choice([0, 1, 50]))
    data = encode(rollout)
    assert_identical(decode(data), rollout)
    assert encode(decode(data)) == data


@pytest.mark.parametrize(("latents", "width"), [(0, 0), (0, 5), (1, 1), (64, 1)])
@pytest.mark.parametrize("answer", [0, 1])
def test_shapes_at_the_edge_come_back(latents: int, width: int, answer: int) -> None:
    rollout = make_rollout(random.Random(1), latents, width, answer)
    assert_identical(decode(encode(rollout)), rollout)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Rollout)])
def test_every_field_is_kept(field: str) -> None:
    """Two rollouts that differ in one field alone differ after the round trip, in that field alone."""
    one, two = make_rollout(random.Random(1), 4, 6, 8), make_rollout(random.Random(2), 4, 6, 8)
    inside_LK = one.latent_logprobs_LK != -torch.inf
    value = getattr(two, field)
    if field == "stop_reason":
        value = "cancelled" if one.stop_reason != "cancelled" else "stop"
    elif field == "altered":
        value = not one.altered
    elif field == "placement":
        value = "thinking" if one.placement != "thinking" else "answer"
    elif field == "lead_in":
        value = one.lead_in + 1
    elif field.endswith("_LK"):
        value = torch.where(inside_LK, getattr(one, field) + 1, getattr(one, field)).nan_to_num(1.0)
    other = changed(one, field, value)
    assert bits(getattr(other, field)) != bits(getattr(one, field))
    assert_identical(decode(encode(other)), other)


def test_special_floats_come_back_to_the_bit() -> None:
    rollout = make_rollout(random.Random(3), 1, 5, 5)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1e-45])
    nan = torch.tensor([0x7FC00001, -1, 0x7F800001, 0, 1], dtype=torch.int32).view(torch.float32)
    inside = torch.full((1, 5), -0.5)
    inside[0, 1] = -torch.inf  # a hole inside the support
    rollout = replace(
        rollout,
        latent_ids_LK=torch.arange(5, dtype=torch.int32)[None],
        latent_weights_LK=special[None],
        latent_logprobs_LK=inside,
        token_logprobs_T=nan,
        token_log_mass_T=special,
    )
    assert_identical(decode(encode(rollout)), rollout)


def test_what_lies_outside_a_support_is_cleared_and_costs_nothing() -> None:
    rollout = make_rollout(random.Random(4), 8, 30, 4)
    outside_LK = rollout.latent_logprobs_LK == -torch.inf
    littered = replace(rollout, latent_ids_LK=rollout.latent_ids_LK.masked_fill(outside_LK, 99))
    assert encode(littered) == encode(rollout)
    wider = replace(
        rollout,
        latent_ids_LK=torch.nn.functional.pad(rollout.latent_ids_LK, (0, 100)),
        latent_weights_LK=torch.nn.functional.pad(rollout.latent_weights_LK, (0, 100)),
        latent_logprobs_LK=torch.nn.functional.pad(rollout.latent_logprobs_LK, (0, 100), value=-torch.inf),
    )
    assert len(encode(wider)) == len(encode(rollout))
    assert_identical(decode(encode(wider)), wider)


def test_a_weight_that_vanished_in_float32_is_still_in_the_support() -> None:
    rollout = make_rollout(random.Random(4), 1, 3, 1)
    rollout = replace(
        rollout,
        latent_ids_LK=torch.tensor([[5, 6, 7]], dtype=torch.int32),
        latent_weights_LK=torch.tensor([[1.0, 0.0, 0.0]]),
        latent_logprobs_LK=torch.tensor([[-0.1, -3.0, -9.0]]),
    )
    assert_identical(decode(encode(rollout)), rollout)


def test_published_settings_take_24_kilobytes() -> None:
    rng = random.Random(6)
    rollout = make_rollout(rng, 64, 30, 0)
    full = replace(rollout, latent_weights_LK=torch.rand(64, 30), latent_logprobs_LK=-torch.rand(64, 30))
    assert len(encode(full)) < 24 * 1024


def test_a_sampled_answer_comes_back(policy: Policy, prompt_ids: list[int]) -> None:
    rollout = sample(policy, prompt_ids, Sampling(latent_length=4, temperature=0.7, seed=9), 12)
    assert_identical(decode(encode(rollout)), rollout)


def test_bytes_of_older_versions_stay_readable() -> None:
    """Rollouts lie in databases: a change of the layout is a new version beside this one, not instead of it."""
    rollout = decode(bytes.fromhex(GOLDEN_3))
    second = replace(rollout, placement="answer", lead_in=0, lead_out_ids_O=torch.empty(0, dtype=torch.int32))
    assert_identical(second, decode(bytes.fromhex(GOLDEN_2)))
    first = replace(second, sampling=replace(rollout.sampling, draws=1))
    assert_identical(first, decode(bytes.fromhex(GOLDEN_1)))
    assert rollout.prompt_ids_P.tolist() == [1, 5, 9]
    assert rollout.latent_ids_LK.tolist() == [[7, 8], [3, 0]]
    assert rollout.latent_weights_LK.tolist() == [[0.75, 0.25], [1.0, 0.0]]
    assert rollout.latent_logprobs_LK.tolist() == [[-0.5, -1.5], [0.0, -torch.inf]]
    assert rollout.latent_log_mass_L.tolist() == [-0.125, 0.0]
    assert rollout.token_ids_T.tolist() == [4, 2]
    assert rollout.token_logprobs_T.tolist() == [-1.0, -2.0]
    assert rollout.token_log_mass_T.tolist() == [-0.25, -0.5]
    assert rollout.sampling == Sampling(3, 0.5, 0.75, 30, 0.95, 7, 4)
    assert (rollout.policy_version, rollout.stop_reason, rollout.altered) == (4, "cancelled", True)
    assert (rollout.placement, rollout.lead_in, rollout.lead_out_ids_O.tolist()) == ("preamble", 1, [6, 2])
    assert (len(rollout.masks_MQ), len(rollout.mask_S), rollout.sampling.min_p) == (0, 0, 0.0)
    masks_MQ, mask_S = torch.tensor([[255, 1], [3, 0]], dtype=torch.uint8), torch.tensor([0, -1, 1, 1]).int()
    sampling = replace(rollout.sampling, min_p=0.25)
    latest = replace(rollout, sampling=sampling, masks_MQ=masks_MQ, mask_S=mask_S)
    assert_identical(decode(bytes.fromhex(GOLDEN)), latest)
    assert encode(latest).hex() == GOLDEN  # its masks are packed by zlib, of which any release unpacks any other's


def test_every_truncation_is_refused(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(ValueError, match="cut short"):
            decode(data[:length])
    with pytest.raises(ValueError, match="have a tail"):
        decode(data + b"\0")


def test_every_damaged_byte_is_refused(data: bytes) -> None:
    for position in (*range(HEADER.size), *range(HEADER.size, len(data), 7)):
        damaged = bytearray(data)
        damaged[position] ^= 0x10
        with pytest.raises(ValueError, match=r"rollout"):
            decode(bytes(damaged))


def test_an_unknown_version_and_foreign_bytes_are_named(data: bytes) -> None:
    newer = HEADER.pack(b"LEPO", CODEC_VERSION + 1, len(data) - HEADER.size, 0) + data[HEADER.size :]
    with pytest.raises(ValueError, match=f"codec version {CODEC_VERSION + 1} is unknown"):
        decode(newer)
    with pytest.raises(ValueError, match="no rollout"):
        decode(b"PK\x03\x04" + data[4:])


@pytest.mark.parametrize(
    ("offset", "value"), [(0, 2**32 - 1), (4, 2**32 - 1), (12, 2**32 - 1), (0, 1), (4, 1), (8, 1), (68, 200)]
)
def test_a_payload_that_contradicts_itself_is_refused_with_a_valid_checksum(
    data: bytes, offset: int, value: int
) -> None:
    """Lengths are checked before anything is allocated from them."""
    payload = bytearray(data[HEADER.size :])
    struct.pack_into("<I" if offset < 68 else "<B", payload, offset, value)
    forged = HEADER.pack(b"LEPO", CODEC_VERSION, len(payload), zlib.crc32(payload)) + bytes(payload)
    with pytest.raises(ValueError, match=r"damaged|does not know|latent_length"):
        decode(forged)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Rollout) if f.name[-2] == "_" or "_LK" in f.name])
def test_a_wrong_dtype_or_shape_is_named(field: str) -> None:
    rollout = make_rollout(random.Random(8), 3, 4, 5)
    tensor: Tensor = getattr(rollout, field)
    with pytest.raises(ValueError, match=field):
        encode(changed(rollout, field, tensor.double()))
    with pytest.raises(ValueError, match=r"must be torch\."):
        encode(changed(rollout, field, tensor[None]))


def test_numbers_that_do_not_fit_are_refused() -> None:
    rollout = make_rollout(random.Random(8), 3, 4, 5)
    for misfit in (
        replace(rollout, policy_version=-1),
        replace(rollout, sampling=replace(rollout.sampling, top_k=2**64)),
    ):
        with pytest.raises(ValueError, match="negative or too large"):
            encode(misfit)


def test_decoded_arrays_are_writable_and_do_not_share_memory(data: bytes) -> None:
    rollout, again = decode(data), decode(data)
    rollout.token_ids_T[0] += 1
    rollout.latent_weights_LK.zero_()
    assert not torch.equal(rollout.token_ids_T, again.token_ids_T)
    assert again.latent_weights_LK.any()
