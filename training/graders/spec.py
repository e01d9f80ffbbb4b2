"""Reading a grader's spec, field by field, with errors that name the field.

A spec is a JSON object from a caller, so nothing about it is trusted: types, lengths and unknown fields are checked
here. Leaves out what the fields mean (see each grader).
"""

from collections.abc import Mapping
from typing import Any

MAX_REFERENCE = 10_000  # characters
MAX_NAME = 100  # characters


class GraderSpecError(ValueError):
    """A grader's spec is wrong; `param` is the dotted path of the bad field, like "grader.operation"."""

    def __init__(self, param: str, problem: str) -> None:
        super().__init__(f"{param} {problem}")
        self.param = param


class SpecFields:
    """The fields of one spec; each is read once, and `close` refuses those nobody asked for."""

    def __init__(self, spec: object, path: str) -> None:
        if not isinstance(spec, Mapping):
            raise GraderSpecError(path, f"must be an object, not {type(spec).__name__}")
        self.path = path
        self._unread: dict[str, Any] = {str(key): value for key, value in spec.items()}

    def take(self, field: str) -> Any:
        """Return the field's value, None when it is absent."""
        return self._unread.pop(field, None)

    def text(self, field: str, limit: int, default: str | None = None) -> str:
        """Return a non-empty text of at most `limit` characters; required unless there is a default."""
        value = self.take(field)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or not value.strip():
            raise self.error(field, "must be a non-empty string")
        if len(value) > limit:
            raise self.error(field, f"must have at most {limit} characters, not {len(value)}")
        return value

    def choice(self, field: str, options: tuple[str, ...], default: str | None = None) -> str:
        """Return one of the options; required unless there is a default."""
        value = self.take(field)
        if value is None and default is not None:
            return default
        if value not in options:
            raise self.error(field, f"must be one of {', '.join(options)}")
        return str(value)

    def integer(self, field: str, low: int, high: int, default: int | None = None) -> int:
        """Return a whole number in [low, high]; required unless there is a default."""
        value = self.take(field)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(field, f"must be a whole number from {low} to {high}")
        return value

    def close(self) -> None:
        """Refuse fields that were never read."""
        for field in self._unread:
            raise self.error(field, "is not a field of this grader; remove it")

    def error(self, field: str, problem: str) -> GraderSpecError:
        """Return the error of one field, to be raised."""
        return GraderSpecError(f"{self.path}.{field}", problem)
