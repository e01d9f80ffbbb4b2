"""The model an offline command works on: the demo's, a directory, or a hub name; its errors say what to do."""

from pathlib import Path

import torch

from app.errors import BadRequest
from training.demo_model.location import WEIGHTS
from training.policy import Policy, load_policy

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def open_model(name: str, *, version: int, dtype: str, device: str) -> Policy:
    """Load a policy.

    Raises:
        BadRequest: there is no such model here, or the device is not to be had.

    """
    source: str | Path = WEIGHTS if name == "demo" else name
    try:
        return load_policy(source, version=version, dtype=DTYPES[dtype], device=device)
    except ValueError as error:
        raise BadRequest(
            f"{error}\n--model takes 'demo', a directory in the Hugging Face layout, or a hub name "
            "(offline only when it is in the hub's cache); --device takes cpu, cuda, cuda:N or auto"
        ) from error
