"""The playground: one question, two answers side by side, streamed, with their thoughts, to be graded.

The page's script asks the API itself, as whoever is signed in. Two policies can be asked where two are in memory; else
two ways of asking one, such as with and without latent steps.
"""

from typing import Annotated

from fastapi import Depends, Request
from starlette.responses import Response

from app.api.console.pages.rendering import page
from app.api.console.pages.routes import pages
from app.api.door.auth import require
from app.api.door.callers import Caller
from app.api.server import ServerDep

router = pages()


@router.get("/console/playground")
async def playground(
    request: Request,
    server: ServerDep,
    _caller: Annotated[Caller, Depends(require("infer"))],
    a: int | None = None,
    b: int | None = None,
) -> Response:
    """Show the page; `a` and `b` are versions to be asked."""
    settings, trial = server.settings, server.trial
    resident = [server.engine.version] if trial is None else [server.engine.version, trial.version]
    absent = sorted({one for one in (a, b) if one is not None and one not in resident})
    second = b if b in resident else resident[-1]
    first = a if a in resident else resident[0]
    return page(
        request,
        "playground.html",
        resident=resident,
        absent=absent,
        sides=[("a", first, settings.latent_length), ("b", second, settings.latent_length if len(resident) > 1 else 0)],
        settings=settings,
        most_latents=max(64, settings.latent_length),
        most_tokens=settings.max_length,
    )
