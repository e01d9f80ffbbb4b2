"""Every check in the order in which a part needs another: settings, machine, model, database, broker, service."""

from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from app.doctor import contradictions, machine, model, parts
from app.doctor.finding import Finding
from app.errors import LepoError
from app.settings import Settings, read_settings


def examine(variables: Iterable[str], url: str | None) -> Iterator[Finding]:
    """Look at everything, and give what was found as it is found.

    Args:
        variables: names of the environment's variables.
        url: the service; None: where the settings say.

    """
    settings: Settings | None = None
    try:
        settings = read_settings()
    except ValidationError as error:
        yield from unreadable(error)
    except LepoError as error:
        yield Finding("settings", "fail", error.message, "see: lepo settings")
    yield from contradictions.strangers(variables)
    if settings is None:
        yield Finding("machine", "skip", "nothing else can be looked at before the settings can be read")
        return
    troubles = list(contradictions.contradictions(settings))
    yield from troubles or [Finding("settings", "ok", "none contradict one another")]
    yield from (machine.port(settings), machine.disk(settings), machine.cores(settings))
    yield from machine.gpu(settings)
    yield from model.model(settings)
    yield model.held_out(settings)
    yield from parts.database(settings)
    yield parts.broker(settings)
    yield from parts.service(url or at(settings))


def unreadable(error: ValidationError) -> Iterator[Finding]:
    """Name every setting that is out of its range."""
    from app.cli import settings_errors

    for line in settings_errors(error) or [str(error)]:
        yield Finding("settings", "fail", line, "correct it: docs/settings.md, or lepo settings")


def at(settings: Settings) -> str:
    """Say where the service of these settings would answer."""
    from app.commands.connection import found

    return found(settings, None, None).url
