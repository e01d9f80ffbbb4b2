"""Forms of the console: read, and believed only with the token of the session they come from.

Leaves out what they ask for.
"""

from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request

from app.api.door import browsers
from app.api.door.audit import READS
from app.errors import BadRequest, Unauthorized

Form = dict[str, str]


async def read_form(request: Request) -> Form:
    """Read a form's fields; of those that have one name, the last.

    Raises:
        BadRequest: the body is no form.

    """
    body = await request.body()
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=200))
    except ValueError as error:
        raise BadRequest("The body must be a form, as the console's pages send it.", code="invalid_form") from error


async def proven_form(request: Request) -> Form:
    """Read a form that a page of ours sent.

    Raises:
        Forbidden: another sent it.

    """
    cookie = browsers.cookie(request.scope)
    if cookie is None:
        raise Unauthorized("Sign in at /console first.", code="signed_out")
    form = await read_form(request)
    browsers.require_token(cookie, form.pop(browsers.FIELD, "") or request.headers.get(browsers.HEADER, ""))
    return form


async def require_proof(request: Request) -> None:
    """Refuse, before any route of the console runs, what changes something and no page of ours sent."""
    if request.method not in READS:
        await proven_form(request)


ProvenForm = Annotated[Form, Depends(proven_form)]
