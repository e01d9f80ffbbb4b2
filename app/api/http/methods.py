"""Which methods a path takes, for the `Allow` header of a 405: starlette names those of one route that matches.

A path that is a route's own goes before one that an id in another route's path could be.
"""

from collections.abc import Iterable

from starlette.routing import BaseRoute, Route


class Methods:
    """The methods of every path of an application."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        self._routes = [route for route in routes if isinstance(route, Route)]

    def of(self, path: str) -> str:
        """Name the methods of a path, HEAD wherever there is GET; "" for a path that there is not."""
        own = [route for route in self._routes if route.path == path]
        found = own or [route for route in self._routes if route.path_regex.match(path)]
        methods = {method for route in found for method in route.methods or ()}
        return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
