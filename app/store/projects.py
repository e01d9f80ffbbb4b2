"""Projects: made, listed, limited; what each uses, and what a key may therefore do.

A key belongs to one project, or, with the scope admin, to the service. Everything that comes of a key belongs to its
project. Limits stand on the key, on the project, or in the settings; the first that says something counts. Leaves out
holding anybody to them (`app.api.door`) and counting bytes (triggers of the database).
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Date, SmallInteger, case, cast, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.errors import BadRequest, Conflict, NotFound
from app.settings import Settings
from app.store.tables import ApiKey
from app.store.tenants import DEFAULT, SHARDS, Project, Usage

NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,39}")
TODAY: Final = cast(func.timezone("UTC", func.clock_timestamp()), Date)
LIMITS: Final = ("requests_per_minute", "tokens_per_minute", "stored_bytes", "grading_seconds")


@dataclass(frozen=True, slots=True)
class Used:
    """What a project uses."""

    stored_bytes: int = 0  # texts and rollouts it has, those in files too
    grading_seconds: float = 0.0  # that graders ran for it today (UTC)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a caller is held to; 0 is no bound."""

    key_requests: int = 0  # a minute
    key_tokens: int = 0  # a minute
    project_requests: int = 0  # a minute, by all its keys
    project_tokens: int = 0  # a minute, by all its keys
    max_choices: int = 0  # `n` of one request
    stored_bytes: int = 0  # of its project
    grading_seconds: float = 0.0  # of its project, a day


def create_project(session: Session, name: str, **limits: float | None) -> Project:
    """Make a project.

    Raises:
        BadRequest: the name cannot be one.
        Conflict: it exists.

    """
    if NAME.fullmatch(name) is None:
        raise BadRequest(f"A project's name reads {NAME.pattern}, such as team-a; got {name[:80]!r}.", param="id")
    made = insert(Project).values(id=name, **limits).on_conflict_do_nothing().returning(Project)
    row = session.scalar(made)
    if row is None:
        raise Conflict(f"The project {name} exists.")
    return row


def get_project(session: Session, name: str) -> Project:
    """Read one.

    Raises:
        NotFound: there is none of this name.

    """
    row = session.get(Project, name)
    if row is None:
        raise NotFound(f"There is no project {name[:80]}; see: lepo projects list")
    return row


def list_projects(session: Session, only: str | None = None) -> list[Project]:
    """List projects by name; `only` this one, None: all."""
    query = select(Project).order_by(Project.id)
    return list(session.scalars(query if only is None else query.where(Project.id == only)))


def set_limits(session: Session, name: str, limits: dict[str, Any]) -> Project:
    """Change limits, each named in `LIMITS`; None gives one back to the settings.

    Raises:
        NotFound: there is no such project.

    """
    row = get_project(session, name)
    for limit, value in limits.items():
        assert limit in LIMITS, f"{limit} is no limit of a project"
        setattr(row, limit, value)
    session.flush()
    return row


def used(session: Session, name: str) -> Used:
    """Add up what a project uses: a few rows, however much it is."""
    today = func.sum(Usage.grading_seconds).filter(Usage.grading_day == TODAY)
    row = session.execute(select(func.sum(Usage.stored_bytes), today).where(Usage.project_id == name)).one()
    return Used(max(0, int(row[0] or 0)), float(row[1] or 0))


def spend_grading(session: Session, name: str, seconds: float) -> None:
    """Count what a grader took."""
    shard: ColumnElement[int] = func.mod(func.pg_backend_pid(), SHARDS)
    values = {"project_id": name, "shard": cast(shard, SmallInteger), "grading_day": TODAY}
    spent = insert(Usage).values(**values, grading_seconds=seconds)
    same_day = case((Usage.grading_day == TODAY, Usage.grading_seconds), else_=0)
    changed = {"grading_seconds": same_day + spent.excluded.grading_seconds, "grading_day": spent.excluded.grading_day}
    session.execute(spent.on_conflict_do_update(index_elements=["project_id", "shard"], set_=changed))


def spent_until(session: Session, name: str, settings: Settings) -> timedelta | None:
    """Say how long a project's graders must wait for time of a new day; None: they may run."""
    most = grading_bound(get_project(session, name), settings)
    if not most or used(session, name).grading_seconds < most:
        return None
    midnight = func.date_trunc("day", func.timezone("UTC", func.clock_timestamp())) + timedelta(days=1)
    left: timedelta = session.scalars(select(midnight - func.timezone("UTC", func.clock_timestamp()))).one()
    return left


def bounds(session: Session, key: ApiKey, settings: Settings) -> Bounds:
    """Say what a key is held to. What a key of the service asks belongs to the default project, and is held alike."""
    project = get_project(session, key.project_id or DEFAULT)
    return Bounds(
        key_requests=first(key.requests_per_minute, settings.requests_per_minute),
        key_tokens=first(key.tokens_per_minute, settings.tokens_per_minute),
        project_requests=first(project.requests_per_minute, settings.project_requests_per_minute),
        project_tokens=first(project.tokens_per_minute, settings.project_tokens_per_minute),
        max_choices=key.max_choices or 0,
        stored_bytes=first(project.stored_bytes, settings.project_stored_bytes),
        grading_seconds=grading_bound(project, settings),
    )


def grading_bound(project: Project, settings: Settings) -> float:
    """Say how many seconds a day graders may run for a project; 0: no bound."""
    return settings.project_grading_seconds if project.grading_seconds is None else project.grading_seconds


def first(own: int | None, general: int) -> int:
    """Give what is said nearest."""
    return general if own is None else own


def project_of(key_id: str | None) -> ColumnElement[str]:
    """Say in SQL to which project belongs what a key does."""
    mine = select(ApiKey.project_id).where(ApiKey.id == key_id).scalar_subquery()
    return func.coalesce(mine, DEFAULT)
