"""HEAD for every route that has GET, as HTTP asks: monitors and balancers often send nothing else.

The route answers as to a GET; the wire below keeps the body back, since the request it read was a HEAD. Leaves out the
routes themselves.
"""

from starlette.types import ASGIApp, Receive, Scope, Send


class Heads:
    """ASGI layer around the routes."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}
        await self.app(scope, receive, send)
