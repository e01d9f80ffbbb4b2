"""A checkpoint is whole and proven, or it is not there: whatever was changed, lost or killed."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.older import as_first_format
from training.models.checkpoint import (
    MANIFEST,
    TRAINING_STATE,
    checkpoint_dir,
    listed,
    load_tensors,
    load_training_state,
    publish,
    sweep,
    verify,
)
from training.models.policy import Policy, embedding, fingerprint, load_policy
from training.models.seal import BadCheckpoint
from training.sample import sample
from training.sampling import Sampling

CREATED = "2026-01-01T00:00:00Z"
ROOT = Path(__file__).parents[2]


def published(policy: Policy, parent_dir: Path, version: int = 4, state: Mapping[str, Tensor] | None = None) -> Path:
    return publish(
        policy,
        parent_dir,
        version=version,
        parent_version=3,
        training={"steps": 2, "rewards": [0.5, 1.0]},
        created=CREATED,
        training_state=state,
    )


@pytest.fixture(scope="module")
def whole(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that tests only read."""
    return published(policy, tmp_path_factory.mktemp("checkpoints"), state={"exp_avg/0": torch.arange(6.0).view(2, 3)})


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A checkpoint of this test alone."""
    return Path(shutil.copytree(whole, tmp_path / whole.name))


def test_a_published_policy_is_the_policy(whole: Path, policy: Policy, prompt_ids: list[int]) -> None:
    manifest = verify(whole)
    assert whole.name == "v00000004"
    assert (manifest.version, manifest.parent_version, manifest.created) == (4, 3, CREATED)
    assert manifest.training == {"steps": 2, "rewards": [0.5, 1.0]}
    assert manifest.fingerprint == fingerprint(policy.model)
    loaded = load_policy(whole, version=4, dtype=torch.float32, device="cpu")
    assert fingerprint(loaded.model) == manifest.fingerprint
    sampling = Sampling(latent_length=3, seed=2)
    ours, theirs = (sample(one, prompt_ids, sampling, 10, ignore_eos=True) for one in (policy, loaded))
    assert torch.equal(ours.token_logprobs_T, theirs.token_logprobs_T)


def test_stock_transformers_opens_it_with_its_tokenizer_template_and_generation_settings(
    tmp_path: Path, own_policy: Policy
) -> None:
    assert own_policy.model.generation_config is not None
    own_policy.model.generation_config.eos_token_id = [1, 7]
    directory = published(own_policy, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert model.config.model_type == "qwen2"
    assert model.generation_config.eos_token_id == [1, 7]
    assert tokenizer.chat_template == own_policy.tokenizer.chat_template
    assert tokenizer("2 + 3").input_ids == own_policy.tokenizer("2 + 3").input_ids
    assert tokenizer.special_tokens_map == own_policy.tokenizer.special_tokens_map


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_bfloat16_tied_and_untied_weights_come_back_to_the_bit(
    model_dirs: Mapping[str, Path], family: str, tmp_path: Path
) -> None:
    half = load_policy(model_dirs[family], version=3, dtype=torch.bfloat16, device="cpu")
    directory = published(half, tmp_path)
    again = load_policy(directory, version=4, dtype=torch.bfloat16, device="cpu")
    assert fingerprint(again.model) == verify(directory).fingerprint == fingerprint(half.model)
    tensors = load_tensors(directory)
    assert tensors.keys() == dict(half.model.named_parameters()).keys()  # a tied head is stored once
    assert ("lm_head.weight" in tensors) == (family == "llama")
    for name, parameter in half.model.named_parameters():
        assert tensors[name].dtype == torch.bfloat16
        assert torch.equal(tensors[name], parameter)


def test_optimizer_state_rides_along_and_is_listed(whole: Path, policy: Policy, tmp_path: Path) -> None:
    state = load_training_state(whole)
    assert torch.equal(state["exp_avg/0"], torch.arange(6.0).view(2, 3))
    assert TRAINING_STATE in verify(whole).files
    assert "exp_avg/0" not in load_tensors(whole)
    assert load_training_state(published(policy, tmp_path)) == {}


def test_only_safetensors_and_text_are_written(whole: Path) -> None:
    suffixes = {path.suffix for path in whole.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".jinja", ".txt"}
    assert list(whole.parent.iterdir()) == [whole]


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def edit_manifest(directory: Path, **changes: object) -> None:
    path = directory / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def lengthen(directory: Path) -> None:
    path = directory / "config.json"
    path.write_text(path.read_text() + "\n")


def nest(directory: Path) -> None:
    (directory / "a").mkdir()
    (directory / "a/b").touch()


def link(directory: Path) -> None:
    outside = (directory / "config.json").rename(directory.parent / "outside.json")
    (directory / "config.json").symlink_to(outside)


def cut_manifest(directory: Path) -> None:
    (directory / MANIFEST).write_text((directory / MANIFEST).read_text()[:99])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "one bit of the weights": (lambda d: flip(d / "model.safetensors", -5), r"model\.safetensors"),
    "one bit of the trainer's state": (lambda d: flip(d / TRAINING_STATE, -5), r"trainer/state\.safetensors"),
    "one bit of a header": (lambda d: flip(d / "model.safetensors", 20), r"model\.safetensors"),
    "a longer file": (lengthen, r"config\.json"),
    "a missing file": (lambda d: (d / "tokenizer.json").unlink(), r"lacks \['tokenizer\.json'\]"),
    "an extra file": (lambda d: (d / "pytorch_model.bin").touch(), r"has \['pytorch_model\.bin'\]"),
    "an extra file below": (nest, r"has \['a/b'\]"),
    "a link": (link, "no regular file"),
    "a broken link": (lambda d: (d / "x").symlink_to("nowhere"), r"has \['x'\]"),
    "no manifest": (lambda d: (d / MANIFEST).unlink(), "never finished"),
    "half a manifest": (cut_manifest, "no JSON"),
    "a manifest that is a list": (lambda d: (d / MANIFEST).write_text("[]"), "unknown format"),
    "a later format": (lambda d: edit_manifest(d, format_version=3), "format_version 1 and 2"),
    "another version": (lambda d: edit_manifest(d, version=9), "own digest"),
    "no directory": (shutil.rmtree, "never finished"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found(copy: Path, damage: str) -> None:
    verify(copy)
    hurt, message = DAMAGES[damage]
    hurt(copy)
    with pytest.raises(BadCheckpoint, match=message):
        verify(copy)


def test_what_a_server_looks_at_first_reads_no_content(copy: Path) -> None:
    flip(copy / "model.safetensors", -5)
    assert listed(copy).version == 4
    (copy / "model.safetensors").write_bytes(b"short")
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors"):
        listed(copy)


def test_weights_are_read_once_to_be_sealed(policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[str] = Counter()
    preadv = os.preadv

    def counting(file: int, views: list[memoryview], at: int) -> int:
        count = preadv(file, views, at)
        read[Path(f"/proc/self/fd/{file}").readlink().name] += count
        return count

    monkeypatch.setattr(os, "preadv", counting)
    directory = published(policy, tmp_path)
    weights = sum(one.nbytes for one in policy.model.parameters())
    assert read == {"model.safetensors": weights}
    assert fingerprint(policy.model) == verify(directory).fingerprint


def test_weights_that_change_while_they_are_written_are_not_published(
    own_policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learning_goes_on(_: object, __: object) -> None:
        with torch.no_grad():
            embedding(own_policy).weight[5, 5] += 1

    monkeypatch.setattr(type(own_policy.tokenizer), "save_pretrained", learning_goes_on)
    with pytest.raises(ValueError, match=r"embed_tokens\.weight' changed while it was written"):
        published(own_policy, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_of_the_first_format_are_proven_and_go_on(copy: Path, policy: Policy) -> None:
    before = load_training_state(copy)
    as_first_format(copy)
    assert verify(copy).format_version == 1
    assert {name: one.tolist() for name, one in load_training_state(copy).items()} == {
        name: one.tolist() for name, one in before.items()
    }
    loaded = load_policy(copy, version=4, dtype=torch.float32, device="cpu")
    assert fingerprint(loaded.model) == fingerprint(policy.model)
    flip(copy / "model.safetensors", -5)
    with pytest.raises(BadCheckpoint, match=r"model\.safetensors"):
        verify(copy)


def test_a_checkpoint_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match="safetensors"):
        load_tensors(tmp_path)


def test_sharded_weights_are_read_together(policy: Policy, tmp_path: Path) -> None:
    policy.model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    tensors = load_tensors(tmp_path)
    for name, parameter in policy.model.named_parameters():
        assert torch.equal(tensors[name], parameter)


def test_a_version_is_published_once_and_in_order(policy: Policy, tmp_path: Path) -> None:
    directory = published(policy, tmp_path)
    before = (directory / MANIFEST).read_bytes()
    with pytest.raises(ValueError, match="already published"):
        published(policy, tmp_path)
    with pytest.raises(ValueError, match="above its parent"):
        published(policy, tmp_path, version=3)
    assert (directory / MANIFEST).read_bytes() == before
    assert list(tmp_path.iterdir()) == [directory]


def test_the_loser_of_a_race_for_a_version_is_told_and_leaves_nothing(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def meanwhile(directory: Path, target: Path) -> None:
        target.mkdir()
        (target / "other").touch()
        rename(directory, target)

    monkeypatch.setattr(Path, "rename", meanwhile)
    with pytest.raises(ValueError, match="published meanwhile"):
        published(policy, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["v00000004"]
    assert [path.name for path in checkpoint_dir(tmp_path, 4).iterdir()] == ["other"]


def test_what_is_not_fit_to_serve_is_not_published(own_policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="plain JSON"):
        publish(own_policy, tmp_path, version=4, parent_version=3, training={"x": float("nan")}, created=CREATED)
    with torch.no_grad():
        embedding(own_policy).weight[5, 5] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        published(own_policy, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_training_record_survives_json(policy: Policy, tmp_path: Path) -> None:
    record = {10: "a", 2: "b", "pair": (1, 2)}
    directory = publish(policy, tmp_path, version=0, parent_version=None, training=record, created=CREATED)  # type: ignore[arg-type]
    assert verify(directory).training == {"10": "a", "2": "b", "pair": [1, 2]}
    assert verify(directory).parent_version is None


@pytest.mark.timeout(120)
def test_a_publisher_killed_at_any_moment_leaves_a_whole_checkpoint_or_none(
    model_dirs: Mapping[str, Path], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "tests.training.killed_publisher", str(model_dirs["qwen2"]), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    moments = int(finished.stdout.split()[-1])
    assert moments >= 10
    outcomes = set()
    for moment in range(moments + 1):
        parent_dir = tmp_path / str(moment)
        left = sorted(parent_dir.iterdir()) if parent_dir.exists() else []
        final = checkpoint_dir(parent_dir, 4)
        leftovers = [directory for directory in left if directory != final]
        for leftover in leftovers:
            with pytest.raises(BadCheckpoint, match="never finished"):
                verify(leftover)
        if final.exists():
            assert verify(final).version == 4
        outcomes.add((final.exists(), len(leftovers), any((d / MANIFEST).exists() for d in leftovers)))
        assert sweep(parent_dir) == leftovers
        assert (sorted(parent_dir.iterdir()) if parent_dir.exists() else []) == ([final] if final.exists() else [])
    assert (False, 1, False) in outcomes  # killed among its files
    assert (False, 1, True) in outcomes  # killed between manifest and rename
    assert (True, 0, False) in outcomes  # killed after the rename, or not at all


def test_a_sweep_leaves_a_publisher_that_is_still_writing_alone(tmp_path: Path) -> None:
    writing, dead = tmp_path / ".unfinished-v00000004-aa", tmp_path / ".unfinished-v00000005-bb"
    for directory in (writing, dead):
        directory.mkdir()
        (directory / "config.json").touch()
    handle = os.open(writing, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert sweep(tmp_path) == [dead]
    os.close(handle)
    assert sweep(tmp_path) == [writing]
    assert sweep(tmp_path / "none") == []


def test_a_failing_publisher_clears_up_after_itself(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object, __: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(policy.tokenizer), "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        published(policy, tmp_path)
    assert list(tmp_path.iterdir()) == []
