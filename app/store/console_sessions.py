"""Signing in to the console: sessions of browsers, and links that sign in once.

A session is as good as its key: closing the key closes it. Texts are 256 random bits, of which only the digest is
stored. Leaves out cookies (`app.api.door.browsers`) and what a key may do (`app.store.keys`).
"""

import hashlib
import secrets
from datetime import timedelta
from typing import Final

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from app.errors import NotFound, Unauthorized
from app.store.console_tables import ConsoleSession, SignInLink
from app.store.tables import ApiKey

LINK_LASTS: Final = timedelta(minutes=10)


def open_session(session: Session, key_id: str, lasts: timedelta) -> str:
    """Sign a browser in; sessions and links that expired are removed on the way. Returns what its cookie holds."""
    for table in (ConsoleSession, SignInLink):
        session.execute(delete(table).where(table.expires_at <= func.now()))
    text = secrets.token_urlsafe(32)
    expires_at = func.now() + lasts
    session.add(ConsoleSession(digest=digest(text), api_key_id=key_id, expires_at=expires_at))
    session.flush()
    return text


def key_of(session: Session, text: str) -> ApiKey:
    """Find the key that a browser signed in with.

    Raises:
        Unauthorized: it is signed out, the session is over, or the key was revoked or has expired.

    """
    open_key = ApiKey.revoked_at.is_(None) & (ApiKey.expires_at.is_(None) | (ApiKey.expires_at > func.now()))
    query = (
        select(ApiKey)
        .join(ConsoleSession, ConsoleSession.api_key_id == ApiKey.id)
        .where(ConsoleSession.digest == digest(text), ConsoleSession.expires_at > func.now(), open_key)
    )
    key = session.scalar(query)
    if key is None:
        raise Unauthorized("This session is over; sign in again at /console.", code="signed_out")
    return key


def close_session(session: Session, text: str) -> None:
    """Sign a browser out; doing it twice changes nothing."""
    session.execute(delete(ConsoleSession).where(ConsoleSession.digest == digest(text)))


def make_link(session: Session, key_id: str | None = None, lasts: timedelta = LINK_LASTS) -> str:
    """Make a link that signs in once, with a key or, unless one is named, with the oldest open key of the service.

    Returns:
        What the link holds.

    Raises:
        NotFound: there is no such key, or it is closed.

    """
    open_key = ApiKey.revoked_at.is_(None) & (ApiKey.expires_at.is_(None) | (ApiKey.expires_at > func.now()))
    query = select(ApiKey.id).where(open_key).order_by(ApiKey.created_at, ApiKey.id).limit(1)
    if key_id is None:
        query = query.where(ApiKey.project_id.is_(None), ApiKey.scopes.contains(["admin"]))
    else:
        query = query.where(ApiKey.id == key_id)
    found = session.scalar(query)
    if found is None:
        raise NotFound("There is no such open key; see: lepo keys list, and make one with: lepo keys create")
    text = secrets.token_urlsafe(32)
    session.add(SignInLink(digest=digest(text), api_key_id=found, expires_at=func.now() + lasts))
    session.flush()
    return text


def use_link(session: Session, text: str) -> str:
    """Use a link up; returns the id of the key it signs in with.

    Raises:
        Unauthorized: it was used, has expired, or never was.

    """
    used = delete(SignInLink).where(SignInLink.digest == digest(text), SignInLink.expires_at > func.now())
    key_id = session.scalar(used.returning(SignInLink.api_key_id))
    if key_id is None:
        raise Unauthorized(
            "This link was used or has expired; make another with: lepo console link", code="invalid_link"
        )
    return str(key_id)


def digest(text: str) -> bytes:
    """Digest what a cookie or a link holds."""
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
