"""What can go wrong between client and service."""

from typing import Any

import httpx


class LepoRefused(Exception):
    """The service answered, and not with what was asked for; its words say what to do."""

    def __init__(self, status: int, body: Any, request_id: str | None) -> None:
        said = body.get("error") if isinstance(body, dict) else None
        told: dict[str, Any] = said if isinstance(said, dict) else {}
        self.status = status  # HTTP status
        self.code: str | None = told.get("code")  # the service's word for it, such as `queue_full`
        self.param: str | None = told.get("param")  # the field at fault
        self.request_id = request_id  # as the service's log has it
        super().__init__(f"HTTP {status}: {told.get('message') or body}")


class LepoUnreachable(Exception):
    """No answer came; a request that changes something may or may not have been done."""


def refusal(response: httpx.Response) -> LepoRefused:
    """Make an error of a response that is one; its body must have been read."""
    try:
        body = response.json()
    except ValueError:  # a proxy's words
        body = response.text[:500]
    return LepoRefused(response.status_code, body, response.headers.get("x-request-id"))
