"""The routes of the console, and how a page says that something is refused.

Every route that changes something is behind the session's token before it runs (`forms.require_proof`).
"""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from app.api.console.pages.forms import require_proof
from app.api.console.pages.rendering import page
from app.errors import LepoError

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(APIRoute):
    """A route whose refusals are pages."""

    def get_route_handler(self) -> Handler:
        """Wrap the handler."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except LepoError as error:
                title = HTTPStatus(error.status).phrase
                return page(request, "refused.html", status=error.status, title=title, words=error.message)

        return answer


def pages() -> APIRouter:
    """Make a router for pages."""
    return APIRouter(include_in_schema=False, route_class=PageRoute, dependencies=[Depends(require_proof)])
