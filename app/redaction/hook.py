"""The hook in front of the store: a function, named by LEPO_REDACT, that every text passes before it is stored.

    def redact(text: str) -> str

It is imported and tried once at the start, where a mistake still stops the process. Later an error in it fails the
request with 503 and nothing is stored: a text that could not be redacted is never written. Its errors are logged by
their type alone, since their message may quote the text. Leaves out which texts there are (`app.api.answering.record`).
"""

import hashlib
import importlib
import logging
from collections.abc import Callable
from typing import Any, Final

from app.errors import Unavailable

LONGEST_NAME: Final = 200  # characters of a redacted name, before its digest
TRIAL: Final = "A text to try it on."

log = logging.getLogger("lepo.redaction")

Redact = Callable[[str], object]  # what it gives is looked at: it is another's


class Redactor:
    """Applies a redacting function to texts and to JSON values.

    Args:
        function: text to text; None: everything stays as it is.

    """

    def __init__(self, function: Redact | None) -> None:
        self._function = function

    @property
    def active(self) -> bool:
        """Whether anything is redacted at all."""
        return self._function is not None

    def text(self, given: str) -> str:
        """Redact a text.

        Raises:
            Unavailable: the function failed.

        """
        if self._function is None or not given:
            return given
        try:
            redacted = self._function(given)
        except Exception as error:  # noqa: BLE001 - whatever it raises, nothing may be stored
            log.error("LEPO_REDACT failed with %s; nothing was stored", type(error).__name__)  # noqa: TRY400 - no message
            raise failed() from None
        if not isinstance(redacted, str):
            log.error("LEPO_REDACT returned %s instead of a text; nothing was stored", type(redacted).__name__)
            raise failed()
        return redacted

    def optional(self, given: str | None) -> str | None:
        """Redact a text, if there is one."""
        return None if given is None else self.text(given)

    def name(self, given: str, salt: str) -> str:
        """Redact a name that things are found by: what was taken out leaves a digest, so that no two become one.

        Args:
            given: the name; one that holds nothing to redact stays as it is.
            salt: whose name it is. A digest of what can be guessed can be guessed: this hides it from readers only.

        Raises:
            Unavailable: the function failed.

        """
        redacted = self.text(given)
        if redacted == given:
            return given
        digest = hashlib.blake2s(f"{salt}\0{given}".encode("utf-8", "replace"), digest_size=8).hexdigest()
        return f"{redacted[:LONGEST_NAME]}#{digest}"

    def json(self, value: Any) -> Any:
        """Redact every text in a JSON value, the names of its objects' members too."""
        if self._function is None:
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(name): self.json(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.json(item) for item in value]
        return value


def load_redactor(name: str | None) -> Redactor:
    """Import the function that a setting names, and try it.

    Args:
        name: `module:function`; None: nothing is redacted.

    Raises:
        ValueError: there is no such function, or it fails on a plain text; the message names the setting.

    """
    if name is None:
        return Redactor(None)
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"LEPO_REDACT={name} cannot be imported: {error}; write it as module:function") from error
    redactor = Redactor(found)
    try:
        redactor.text(TRIAL)
    except Unavailable as error:
        raise ValueError(f"LEPO_REDACT={name} fails on a plain text; it must take a text and return one") from error
    return redactor


def failed() -> Unavailable:
    """Say that a text could not be redacted."""
    return Unavailable("The text could not be redacted, so nothing was stored.", code="redaction_failed")
