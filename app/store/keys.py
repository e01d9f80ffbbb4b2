"""API keys: `lepo-<id>-<secret>`, of which only the id and the secret's SHA-256 are stored.

Leaves out which route needs which scope (`app.api`). A secret has 256 random bits, so a plain digest is enough: nothing
can be guessed that a slow hash would protect.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from datetime import datetime
from typing import Final, Literal

from sqlalchemy import func, null, select
from sqlalchemy.orm import Session

from app.errors import BadRequest, Forbidden, NotFound, Unauthorized
from app.store.locks import Lock, hold
from app.store.projects import get_project
from app.store.tables import SCOPES, ApiKey
from app.store.tenants import DEFAULT

Scope = Literal["infer", "grade", "admin"]

FIXED: Final = "LEPO_ADMIN_KEY"  # name of the key that the setting of this name keeps; nobody else may use it
FORM: Final = re.compile(r"lepo-([0-9a-z]{4,32})-([0-9A-Za-z_]{16,128})")
ALPHABET: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
UNKNOWN: Final = "This API key is not known here. Make one with: lepo keys create"
NOBODY: Final = bytes(32)  # compared with when there is no such key, so that both cases take as long


def create_key(
    session: Session,
    name: str,
    scopes: Iterable[str],
    *,
    expires_at: datetime | None = None,
    project: str | None = None,
) -> tuple[ApiKey, str]:
    """Make a key.

    Args:
        session: a transaction.
        name: for people.
        scopes: what it may do.
        expires_at: when it ends; None: never.
        project: whose it is. None: an admin key rules the service, any other belongs to the default project.

    Returns:
        The row, and the key's text, which is not kept: show it now or never.

    Raises:
        ValueError: no scope, or one that does not exist.
        BadRequest: the name is the fixed admin key's.
        NotFound: there is no such project.

    """
    if name == FIXED:
        raise BadRequest(f"The name {FIXED} belongs to the key that this setting keeps; choose another.", param="name")
    public = "".join(secrets.choice(ALPHABET) for _ in range(10))
    text = f"lepo-{public}-{secrets.token_hex(32)}"
    return keep_key(session, text, name, scopes, expires_at=expires_at, project=project), text


def keep_key(
    session: Session,
    text: str,
    name: str,
    scopes: Iterable[str],
    *,
    expires_at: datetime | None = None,
    project: str | None = None,
) -> ApiKey:
    """Store a key whose text was chosen elsewhere (`LEPO_ADMIN_KEY`); the same id and secret may be kept again.

    Raises:
        ValueError: not of the form `lepo-<id>-<secret>`, an unknown scope, or the id is taken by another secret.

    """
    wanted = sorted(set(scopes))
    if not wanted or not set(wanted) <= set(SCOPES):
        raise ValueError(
            f"a key needs one or more of the scopes {', '.join(SCOPES)}; got {', '.join(wanted) or 'none'}"
        )
    form = FORM.fullmatch(text)
    if form is None:
        raise ValueError("a key reads lepo-<id>-<secret>: id of 4 to 32 [0-9a-z], secret of 16 to 128 [0-9A-Za-z_]")
    digest = sha256(form[2])
    known = session.get(ApiKey, form[1])
    if known is not None:
        if not hmac.compare_digest(known.secret_sha256, digest):
            raise ValueError(f"key {form[1]} exists with another secret; choose another id")
        return known
    if project is None and "admin" not in wanted:
        project = DEFAULT
    if project is not None:
        get_project(session, project)
    key = ApiKey(id=form[1], name=name, secret_sha256=digest, scopes=wanted, expires_at=expires_at)
    key.project_id = null() if project is None else project  # None would leave the column to its default
    session.add(key)
    session.flush()
    session.refresh(key)
    return key


def require_form(text: str | None) -> None:
    """Refuse what cannot be a key, before the store is asked.

    Raises:
        Unauthorized: nothing was sent, or no key.

    """
    if not text:
        raise Unauthorized("Send an API key: Authorization: Bearer lepo-...", code="missing_api_key")
    if FORM.fullmatch(text) is None:
        raise Unauthorized(UNKNOWN)


def authenticate(session: Session, text: str | None, now: datetime, scope: Scope | None = None) -> ApiKey:
    """Find the key behind the text a caller sent.

    Args:
        session: a transaction.
        text: the key as sent; None when none was.
        now: with a time zone.
        scope: what it must allow; a key with `admin` allows everything.

    Raises:
        Unauthorized: no key, unknown or wrong, expired or revoked; what became of a key is told to its holder only.
        Forbidden: a good key without the scope.

    """
    require_form(text)
    _, public, secret = (text or "").split("-", 2)
    key = session.get(ApiKey, public)
    right = hmac.compare_digest(key.secret_sha256 if key else NOBODY, sha256(secret))
    if key is None or not right:
        raise Unauthorized(UNKNOWN)
    if key.revoked_at is not None:
        words = f"API key {key.id} was revoked on {key.revoked_at:%Y-%m-%d}"
        raise Unauthorized(
            f"{words}; {'set another LEPO_ADMIN_KEY' if key.name == FIXED else 'ask for another'}.",
            code="revoked_api_key",
        )
    if key.expires_at is not None and key.expires_at <= now:
        raise Unauthorized(f"API key {key.id} expired on {key.expires_at:%Y-%m-%d}", code="expired_api_key")
    if scope is not None and not allows(key, scope):
        raise Forbidden(f"API key {key.id} lacks the scope {scope!r}; it has {', '.join(key.scopes)}")
    return key


def allows(key: ApiKey, scope: Scope) -> bool:
    """Tell whether a key may do this; `admin` may do everything."""
    return scope in key.scopes or "admin" in key.scopes


def locked(session: Session, key_id: str, project: str | None = None) -> ApiKey:
    """Read a key in order to change it; `project`: only one of this project's.

    Raises:
        NotFound: there is no such key.

    """
    key = session.get(ApiKey, key_id, with_for_update=True)
    if key is None or project not in {None, key.project_id}:
        raise NotFound(f"There is no API key {key_id[:80]}; see: lepo keys list")
    return key


def revoke(session: Session, key_id: str, project: str | None = None) -> ApiKey:
    """Close a key for good; doing it twice changes nothing. `project`: only one of this project's.

    Raises:
        NotFound: there is no such key.

    """
    key = locked(session, key_id, project)
    if key.revoked_at is None:
        key.revoked_at = session.scalar(select(func.now()))
        session.flush()
    return key


def list_keys(session: Session, project: str | None = None) -> list[ApiKey]:
    """List keys, the oldest first; of one project, or all (None)."""
    query = select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)
    return list(session.scalars(query if project is None else query.where(ApiKey.project_id == project)))


def first_admin_key(session: Session) -> str | None:
    """See to it that somebody can administer a new service.

    Args:
        session: a transaction; processes that start together take turns.

    Returns:
        the text of a new key, to be shown once, if there was no admin key that opens; else None.

    """
    hold(session, Lock.FIRST_KEY)
    return None if has_admin(session) else create_key(session, "admin", ["admin"])[1]


def fix_admin_key(session: Session, text: str) -> tuple[ApiKey, list[str]]:
    """Keep the operator's own admin key (`LEPO_ADMIN_KEY`), and close the one that this setting kept before.

    A key that was revoked stays revoked, and closes no other: a server that comes back with yesterday's key must not
    undo today's rotation.

    Args:
        session: a transaction; processes that start together take turns.
        text: the key.

    Returns:
        The key's row (look at `revoked_at`), and the ids of the keys that it replaced.

    Raises:
        ValueError: not a key, its id is taken by another secret, or it is known as a key that may not administer the
            service.

    """
    hold(session, Lock.FIRST_KEY)
    key = keep_key(session, text, FIXED, ["admin"])
    if "admin" not in key.scopes:
        raise ValueError(f"key {key.id} exists without the scope 'admin'; choose another")
    if key.project_id is not None:
        raise ValueError(f"key {key.id} administers the project {key.project_id} alone; choose another")
    if key.revoked_at is not None:
        return key, []
    key.name = FIXED
    replaced = session.scalars(
        select(ApiKey).where(ApiKey.name == FIXED, ApiKey.id != key.id, ApiKey.revoked_at.is_(None))
    ).all()
    return key, [revoke(session, old.id).id for old in replaced]


def has_admin(session: Session) -> bool:
    """Tell whether somebody holds an admin key of the service that still opens."""
    usable = ApiKey.project_id.is_(None) & ApiKey.revoked_at.is_(None)
    usable &= ApiKey.expires_at.is_(None) | (ApiKey.expires_at > func.now())
    return session.scalar(select(ApiKey.id).where(ApiKey.scopes.contains(["admin"]), usable).limit(1)) is not None


def sha256(secret: str) -> bytes:
    """Digest a secret, 32 bytes."""
    return hashlib.sha256(secret.encode()).digest()
