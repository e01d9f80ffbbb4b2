"""Browsers that are signed in to the console: their cookie, and the proof that a page of ours asks.

The cookie is HttpOnly and SameSite=strict, and its name holds the port, since browsers share cookies between the ports
of a host. A request that changes something must also carry a token that only our pages can read: as a header, or, from
a form of the console, as a field (`app.api.console.forms`). Leaves out sessions (`app.store.console_sessions`).
"""

import hashlib
import hmac
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse, Response
from starlette.types import Scope

from app.api.door.audit import READS
from app.errors import Forbidden, LepoError, Unauthorized

CONSOLE: Final = "/console"
SIGN_IN: Final = "/console/sign-in"
HEADER: Final = "x-csrf-token"
FIELD: Final = "csrf"
OWN: Final = frozenset({None, "same-origin", "none"})  # of Sec-Fetch-Site: our pages, or the reader's own hand
UNPROVEN: Final = "This did not come from a page of the console, or the page is old; load it again."


def cookie_name(headers: Headers) -> str:
    """Name the cookie as this browser sees the service."""
    port = headers.get("host", "").rpartition(":")[2]
    return f"lepo_session_{port}" if port.isdecimal() else "lepo_session"


def cookie(scope: Scope) -> str | None:
    """Read what the cookie of the console holds; None without one."""
    headers = Headers(scope=scope)
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(cookie_name(headers))
    except CookieError:
        return None
    return None if morsel is None or not morsel.value else morsel.value


def csrf_token(cookie: str) -> str:
    """Make the token of a session: whoever can read it can read our pages."""
    return hmac.new(cookie.encode("utf-8", "replace"), b"lepo console", hashlib.sha256).hexdigest()


def is_console(scope: Scope) -> bool:
    """Tell whether a path is a page of the console."""
    return bool(scope["path"] == CONSOLE or scope["path"].startswith(CONSOLE + "/"))


def require_own_page(scope: Scope, cookie: str) -> None:
    """Refuse a change that no page of ours asked for; forms of the console bring the token in their bodies.

    Raises:
        Forbidden: another site asks, or the token is missing or another's.

    """
    if scope["method"] in READS:
        return
    headers = Headers(scope=scope)
    require_same_site(headers)
    if is_console(scope) and HEADER not in headers:
        return  # every form is checked by `app.api.console.forms`
    require_token(cookie, headers.get(HEADER, ""))


def require_same_site(headers: Headers) -> None:
    """Refuse what a browser says comes from elsewhere.

    Raises:
        Forbidden: it does.

    """
    if headers.get("sec-fetch-site") not in OWN:
        raise Forbidden(UNPROVEN, code="not_from_console")


def require_token(cookie: str, given: str) -> None:
    """Refuse a token that is not the session's.

    Raises:
        Forbidden: it is another's, or none.

    """
    if not hmac.compare_digest(csrf_token(cookie).encode(), given.encode("utf-8", "replace")):
        raise Forbidden(UNPROVEN, code="not_from_console")


def way_in(scope: Scope, error: LepoError) -> Response | None:
    """Show who is not signed in where to; None where that is no answer: to programs, and to other errors."""
    if not isinstance(error, Unauthorized) or not is_console(scope):
        return None
    headers = Headers(scope=scope)
    if "hx-request" in headers:  # a part of a page: the whole of it is to change
        return Response(status_code=401, headers={"HX-Redirect": SIGN_IN})
    if "text/html" not in headers.get("accept", ""):
        return None
    back = f"?next={quote(scope['path'])}" if scope["method"] == "GET" and scope["path"] != CONSOLE else ""
    return RedirectResponse(SIGN_IN + back, status_code=303)
