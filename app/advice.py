"""What `lepo model advise` measured of a model, kept where the service finds it: how many latent steps pay, and where.

A file in LEPO_VAR_DIR. Its settings hold for the model it was measured on, where neither the environment nor a secret
says otherwise. Leaves out measuring (`worker.offline.advise`) and reading the settings (`app.settings`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from app.errors import BadRequest

NAME: Final = "advice.json"  # in LEPO_VAR_DIR
ADVISED: Final = ("latent_length", "latent_placement", "latent_tau", "latent_draws")  # settings it may hold


def keep_advice(var_dir: Path, model: str, settings: Mapping[str, Any], measured: Mapping[str, Any]) -> Path:
    """Write the advice for a model in the place of an earlier one, whole or not at all.

    Args:
        var_dir: LEPO_VAR_DIR.
        model: as LEPO_MODEL names it.
        settings: values of ADVISED.
        measured: what the advice rests on, for whoever reads the file.

    """
    var_dir.mkdir(parents=True, exist_ok=True)
    path = var_dir / NAME
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"model": model, "settings": dict(settings), "measured": dict(measured)}, indent=1))
    partial.replace(path)
    return path


def kept_advice(var_dir: Path, model: str) -> dict[str, Any]:
    """Read the settings advised for a model; none where it was never measured.

    Raises:
        BadRequest: the file cannot be read; the message says what to do.

    """
    path = var_dir / NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["model"] != model:
            return {}
        return {name: value for name, value in found["settings"].items() if name in ADVISED}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadRequest(f"{path} cannot be read ({error}): remove it, or run lepo model advise again") from error
