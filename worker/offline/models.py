"""The model an offline command works on, by any name that `LEPO_MODEL` takes; its errors say what to do."""

import logging

import torch

from app.errors import BadRequest
from app.models.source import model_source
from app.settings import read_settings
from training.models.policy import Policy, load_policy

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

log = logging.getLogger(__name__)


def open_model(name: str, *, version: int, dtype: str, device: str) -> Policy:
    """Load a policy.

    Raises:
        BadRequest: there is no such model here, or the device is not to be had.
        Unavailable: the model comes in a package that cannot be had.

    """
    source = model_source(name, read_settings().var_dir, log.info)
    try:
        return load_policy(source, version=version, dtype=DTYPES[dtype], device=device)
    except ValueError as error:
        raise BadRequest(
            f"{error}\n--model takes 'demo', 'smollm2', a directory, a GGUF file, or a hub name "
            "(offline only when it is in the hub's cache); --device takes cpu, cuda, cuda:N or auto"
        ) from error
