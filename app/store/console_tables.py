"""Tables of the console: who is signed in with which key, and links that sign in once.

Part of the schema (`app.store.tables`). Only digests are kept: whoever reads the tables cannot sign in. Leaves out
queries (`app.store.console_sessions`).
"""

from datetime import datetime

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.store.base import Base, Created


class ConsoleSession(Base):
    """A browser that is signed in; the row goes when it signs out, or some time after it expired."""

    __tablename__ = "console_sessions"
    __table_args__ = (Index("ix_console_sessions_expires_at", "expires_at"),)

    digest: Mapped[bytes] = mapped_column(primary_key=True)  # SHA-256 of what the cookie holds, 32 bytes
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))  # may do what this key may, while it is open
    created_at: Mapped[Created]
    expires_at: Mapped[datetime]


class SignInLink(Base):
    """A link that signs in once; its row goes when it is used."""

    __tablename__ = "sign_in_links"
    __table_args__ = (Index("ix_sign_in_links_expires_at", "expires_at"),)

    digest: Mapped[bytes] = mapped_column(primary_key=True)  # SHA-256 of what the link holds, 32 bytes
    api_key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))  # the key it signs in with
    created_at: Mapped[Created]
    expires_at: Mapped[datetime]
