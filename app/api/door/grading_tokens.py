"""Grading tokens: the right to grade one answer, for a few minutes, without a key. Made for browsers.

    lepo-grade.<interaction, 32 hex>.<id of the key that made it>.<expiry, Unix seconds>.<HMAC-SHA256, hex>

The secret is shared by all replicas (`app.store.signing`); nothing is stored per token. The maker's key id is inside,
so that grades given with a token count towards that key's share.
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from app.errors import Unauthorized

PREFIX: Final = "lepo-grade."
SECRET_NAME: Final = "grading_tokens"  # noqa: S105  the secret's name, not the secret
LONGEST_S: Final = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class GradingToken:
    """What a token says."""

    interaction_id: UUID  # the one answer it may grade
    key_id: str  # of the key that made it
    expires: int  # Unix seconds, by the database's clock: replicas' differ


def make_token(token: GradingToken, secret: bytes) -> str:
    """Sign a token."""
    payload = f"{PREFIX}{token.interaction_id.hex}.{token.key_id}.{token.expires}"
    return f"{payload}.{signature(payload, secret)}"


def read_token(text: str, secret: bytes) -> GradingToken:
    """Check a token's signature; whoever asks the store looks at its expiry.

    Raises:
        Unauthorized: not signed by this service.

    """
    payload, _, signed = text.rpartition(".")
    right = hmac.compare_digest(signed.encode("utf-8", "replace"), signature(payload, secret).encode())
    if not right:
        raise Unauthorized("This grading token was not made by this service.", code="invalid_grading_token")
    interaction_hex, key_id, expires = payload.removeprefix(PREFIX).split(".")
    return GradingToken(UUID(hex=interaction_hex), key_id, int(expires))


def signature(payload: str, secret: bytes) -> str:
    """HMAC-SHA256 in hexadecimal."""
    return hmac.new(secret, payload.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
