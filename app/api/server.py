"""What one server process consists of: the engine, the stores, the tokenizer, and what routes share of them.

Made by the lifespan on the running event loop, found by routes through `the_server`; nothing here is global. Leaves out
how the parts are made (`app.api.serve`) and what they do.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, TypeVar, cast

import anyio
import anyio.to_thread
from fastapi import Depends, Request
from transformers import PreTrainedTokenizerBase

from app.api.answering.prompts import PromptReader
from app.api.answering.token_names import TokenNames
from app.api.answering.trial_routing import OnTrial
from app.api.door.callers import Believed
from app.api.door.grading_tokens import SECRET_NAME
from app.api.door.rates import Rates
from app.api.door.strangers import Strangers
from app.api.http.mailbox import Bell
from app.api.http.transactions import Transactions
from app.api.metrics import Metrics
from app.engine.engine import Engine
from app.placements import Placements
from app.redaction.hook import load_redactor
from app.settings import Settings
from app.store.connect import Store
from app.store.signing import shared_secret
from app.telemetry.told import Silence, Telemetry

T = TypeVar("T")

GRADER_TRIALS = 2
RENDERERS = 2  # threads that write large responses; those that read prompts are others
CONTROL_S = 15.0  # an operator waits for counts over large tables


@dataclass(frozen=True, slots=True)
class Parts:
    """What is handed to `create_app`; whoever made the stores closes them, the app starts and closes the engine."""

    settings: Settings
    engine: Engine  # not started
    tokenizer: PreTrainedTokenizerBase
    placements: Placements  # of the model's latent steps
    traffic: Store  # for answering; as many connections as settings.database_pool
    control: Store  # for admin routes, the policy watch and health; settings.control_pool
    redis_url: str | None  # the bell's address in redis-py's form; None: polling alone
    telemetry: Telemetry = field(default_factory=Silence)  # who hears of answers and grades; whoever made it closes it


class Server:
    """One running server. Used on its event loop."""

    def __init__(self, parts: Parts) -> None:
        self.settings = parts.settings
        self.engine = parts.engine
        patience = parts.settings.database_timeout
        self.traffic = Transactions(parts.traffic, parts.settings.database_pool, patience, "traffic")
        self.control = Transactions(parts.control, parts.settings.control_pool, CONTROL_S, "control")
        self.redis_url = parts.redis_url
        self.redactor = load_redactor(parts.settings.redact)
        self.prompts = PromptReader(parts.tokenizer, parts.settings.tool_parser)
        self.placements = parts.placements
        self.names = TokenNames(parts.tokenizer)
        self.metrics = Metrics(parts.engine, parts.settings)
        self.telemetry = parts.telemetry
        self.bell = Bell(asyncio.get_running_loop())
        self.trials = anyio.CapacityLimiter(GRADER_TRIALS)  # graders tried out at once
        self._renderers = anyio.CapacityLimiter(RENDERERS)
        self.believed = Believed()
        self.strangers = Strangers(parts.settings.bad_keys_per_minute)
        self.rates = Rates(parts.redis_url)
        self.policy_bell = asyncio.Event()  # set: look at the `serving` alias now
        self.trial: OnTrial | None = None  # the policy on trial that the engine holds ready
        self.shadows: set[asyncio.Task[None]] = set()  # shadow answers under way
        self.underway: dict[
            str, str | None
        ] = {}  # responses whose answers are not all stored yet -> the key that asked
        self.started_at = int(time.time())  # Unix seconds
        self.background: set[asyncio.Task[None]] = set()  # what must live as long as the server
        self._grading_secret: bytes | None = None

    async def render(self, work: Callable[[], T]) -> T:
        """Write a large response on a thread."""
        return await anyio.to_thread.run_sync(work, limiter=self._renderers)

    def close(self) -> None:
        """See the last transactions to their end."""
        self.traffic.close()
        self.control.close()

    async def grading_secret(self) -> bytes:
        """Give the secret behind grading tokens; the store is asked once."""
        if self._grading_secret is None:
            self._grading_secret = await self.traffic.run(lambda session: shared_secret(session, SECRET_NAME))
        return self._grading_secret


async def the_server(request: Request) -> Server:
    """Find the server of a request's app; on the loop, for a way over a thread costs more than the look."""
    return cast("Server", request.app.state.server)


ServerDep = Annotated[Server, Depends(the_server)]
