"""Grading tokens: the right to grade one answer, for a few minutes, without a key. Made for browsers.

    lepo-grade.<its id, 32 hex>.<interaction, 32 hex>.<id of the key that made it>.<expiry, Unix seconds>.<HMAC, hex>

The secret is shared by all replicas (`app.store.signing`), so that what nobody lent costs no query; how many grades are
left of one is a row (`app.store.lent`). The maker's key id is inside, so that grades given with a token count towards
that key's share.
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

    id: UUID  # of its row
    interaction_id: UUID  # the one answer it may grade
    key_id: str  # of the key that made it
    expires: int  # Unix seconds, by the database's clock: replicas' differ


def make_token(token: GradingToken, secret: bytes) -> str:
    """Sign a token."""
    payload = f"{PREFIX}{token.id.hex}.{token.interaction_id.hex}.{token.key_id}.{token.expires}"
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
    parts = payload.removeprefix(PREFIX).split(".")
    if len(parts) != 4:  # of a release before this one, for a week after the change
        raise Unauthorized(
            "This grading token is of an earlier release; ask for a new one.", code="expired_grading_token"
        )
    token_hex, interaction_hex, key_id, expires = parts
    return GradingToken(UUID(hex=token_hex), UUID(hex=interaction_hex), key_id, int(expires))


def signature(payload: str, secret: bytes) -> str:
    """HMAC-SHA256 in hexadecimal."""
    return hmac.new(secret, payload.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
