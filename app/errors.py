"""One tree of errors for the whole product, each with the HTTP status it becomes.

Leaves out how an error is written on the wire (`app.api`): the store, the engine and the commands raise these too, so
nothing here knows of HTTP beyond a number.

    LepoError                   500
    +-- BadRequest              400   malformed, or names something impossible; `param` names the field
    +-- Unauthorized            401   no key, or a key that does not open this door
    +-- Forbidden               403   a good key without the scope
    +-- NotFound                404
    +-- Conflict                409   the state does not allow it now (a job runs already, a key is in use)
    |   +-- Fenced              409   another worker owns this job by now: stop, write nothing
    +-- TooLarge                413
    +-- Unprocessable           422   well-formed, and contradicts what is stored
    +-- TooMany                 429   a bound on waiting work; carries `retry_after`
    +-- Cancelled               499   the client left, or an operator said stop
    +-- Unavailable             503   a part is away or starting; carries `retry_after`
    +-- DeadlineExceeded        504   it took longer than was allowed
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar


class LepoError(Exception):
    """An error with a status and words for the caller.

    Args:
        message: what is wrong and what to do about it.
        param: the request field that is wrong, dotted (`latent.length`), or None.
        code: a stable word for programs; each class has a default.
        retry_after: seconds after which the same request may succeed, or None.

    """

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.retry_after = retry_after


class BadRequest(LepoError):
    """The request is malformed or asks for the impossible."""

    status = 400
    default_code = "invalid_value"


class Unauthorized(LepoError):
    """No key, or a key that opens nothing."""

    status = 401
    default_code = "invalid_api_key"


class Forbidden(LepoError):
    """A good key that lacks the scope."""

    status = 403
    default_code = "missing_scope"


class NotFound(LepoError):
    """There is no such thing."""

    status = 404
    default_code = "not_found"


class Conflict(LepoError):
    """The state does not allow it now."""

    status = 409
    default_code = "conflict"


class Fenced(Conflict):
    """Another worker took the job over, or it ended: the caller must stop and write nothing."""

    default_code = "fenced"


class TooLarge(LepoError):
    """The request is larger than this server takes."""

    status = 413
    default_code = "request_too_large"


class Unprocessable(LepoError):
    """Well-formed, but it contradicts what is stored."""

    status = 422
    default_code = "unprocessable"


class TooMany(LepoError):
    """A bound on waiting work is reached."""

    status = 429
    default_code = "rate_limit_exceeded"
    headers: Mapping[str, str] = MappingProxyType({})  # what is left of a rate


class Cancelled(LepoError):
    """The client left, or an operator stopped it."""

    status = 499
    default_code = "cancelled"


class Unavailable(LepoError):
    """A part this needs is away or still starting."""

    status = 503
    default_code = "unavailable"


class DeadlineExceeded(LepoError):
    """It took longer than was allowed."""

    status = 504
    default_code = "deadline_exceeded"
