"""What works with a model and what it needs, before it is loaded: the same rules as the doors, asked of its outline."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

from app.models.learning import USUAL_RANK, adapters, reached
from app.models.memory import Need, everything
from app.models.outline import Outline, outline
from app.settings import Settings
from training.models.lora import adaptable


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one thing works."""

    what: str
    works: bool
    words: str


@dataclass(frozen=True, slots=True)
class Report:
    """All of it."""

    verdicts: tuple[Verdict, ...]
    needs: tuple[Need, ...]  # empty where it cannot be served
    settings: str  # those that the needs depend on, in a line

    @property
    def served(self) -> bool:
        """Whether the engine takes it."""
        return bool(self.needs)


def report(source: str, settings: Settings) -> Report:
    """Look at a model.

    Args:
        source: a directory, a GGUF file or a hub name.
        settings: of the service that would serve it.

    Raises:
        ValueError: the door would refuse it, or it cannot be looked at; the message says why.

    """
    found = outline(source, settings.model_revision)
    needs = () if found.anatomy is None else tuple(everything(found, found.anatomy, settings))
    counted = ("dtype", "slots", "max_length", "swap_mode")
    line = " ".join(f"LEPO_{name.upper()}={getattr(settings, name)}" for name in counted)
    return Report(tuple(_verdicts(found, settings)), needs, line)


def _verdicts(found: Outline, settings: Settings) -> Iterator[Verdict]:
    kind = type(found.model).__name__
    yield Verdict("model", works=True, words=f"{kind}, {found.parameters:,} weights; {found.files}")
    yield _engine(found, settings)
    served = found.anatomy is not None
    yield _replay(found)
    yield _lora(found, settings)
    swap = f"LEPO_SWAP_MODE={settings.swap_mode}" if served else "what is not served is not swapped"
    yield Verdict("swap", served, swap)
    if found.template is not None:
        words = "by its template" if found.template else "it has no chat template: use /v1/completions, or add one"
        yield Verdict("chat", found.template, words)


def _engine(found: Outline, settings: Settings) -> Verdict:
    """Judge what the engine must know."""
    if found.anatomy is None:
        return Verdict("engine", works=False, words=found.refusal or "")
    longest = found.anatomy.positions
    words = f"attends by {found.attention}, {' and '.join(sorted(found.anatomy.kinds))}"
    if longest is not None and longest < settings.max_length:
        words += f"; answers of up to {longest} positions, not LEPO_MAX_LENGTH={settings.max_length}"
    return Verdict("engine", works=True, words=f"{words}; proven when it is loaded")


def _replay(found: Outline) -> Verdict:
    """Judge whether body and head come apart (`training.models.head.take_apart`)."""
    if found.model.get_output_embeddings() is None or found.model.base_model is found.model:
        return Verdict("replay", works=False, words="it has no separate output layer, so it cannot be learned from")
    return Verdict("replay", works=True, words="all weights learn; its head is proven when it is loaded")


def _lora(found: Outline, settings: Settings) -> Verdict:
    """Judge whether adapters find a place."""
    if importlib.util.find_spec("peft") is None:
        return Verdict("LoRA", works=False, words="adapters need peft: pip install 'lepo-service[lora]'")
    try:
        adaptable(found.model.base_model)
    except ValueError as error:
        return Verdict("LoRA", works=False, words=str(error))
    rank = settings.lora_rank or USUAL_RANK
    places = f"{len(found.adapted)} layers" + (f" and {len(found.experts)} banks of experts" if found.experts else "")
    covered = sum(one.numel() for one in reached(found)) / found.parameters
    words = f"{places}, {covered:.0%} of the weights; {adapters(found, rank):,} learn at rank {rank}"
    return Verdict("LoRA", works=True, words=words)
