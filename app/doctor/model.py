"""The model and the held-out prompts: are they there, can they be used, and does the memory suffice.

Nothing is loaded or fetched. Leaves out how memory is added up (`app.models.memory`).
"""

from collections.abc import Iterator
from typing import Final

from app.doctor.finding import Finding, State
from app.doctor.machine import GB, memory_free
from app.errors import LepoError
from app.settings import Settings

FEW: Final = 50  # held-out prompts below which an interval is wider than most gains


def model(settings: Settings) -> Iterator[Finding]:
    """Look at the model's configuration and the headers of its files."""
    from app.models.report import report
    from app.models.source import present_source

    source = present_source(settings.model, settings.var_dir)
    if source is None:
        says = f"{settings.model} is not here yet; `lepo up` fetches it"
        yield Finding("model", "warn", says, f"fetch it before: lepo model fetch {settings.model}")
        return
    try:
        found = report(source, settings)
    except (ValueError, OSError) as error:
        first = (str(error).splitlines() or [""])[0]
        says = f"LEPO_MODEL={settings.model} cannot be looked at: {first}"
        yield Finding("model", "fail", says, f"see: lepo model check {settings.model}")
        return
    poor = [verdict for verdict in found.verdicts if not verdict.works and verdict.what != "LoRA"]
    for verdict in poor:
        says = f"{settings.model}, {verdict.what}: {verdict.words}"
        state: State = "warn" if found.served else "fail"
        yield Finding("model", state, says, "choose another with LEPO_MODEL: docs/models.md")
    if not poor:
        yield Finding("model", "ok", f"{settings.model}: {found.verdicts[0].words}")
    totals = [need for need in found.needs if need.total]
    if totals:
        yield memory(settings, totals[0].bytes, totals[1].bytes if settings.learn else 0)


def memory(settings: Settings, server: int, worker: int) -> Finding:
    """Compare what a server and a worker take at most with what is free."""
    from app.models.memory import on_cpu

    if on_cpu(settings):
        where, free = "memory", memory_free()
    else:
        import torch

        where, free = "the GPU's memory", max(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count()))
    words = (
        f"a server takes {server / GB:.2f} GB at most, a worker {worker / GB:.2f}; {free / GB:.1f} GB of {where} free"
    )
    if server + worker <= free:
        return Finding("memory", "ok", words)
    do = f"lower LEPO_SLOTS or LEPO_MAX_LENGTH, or set LEPO_LORA_RANK; see: lepo model check {settings.model}"
    return Finding("memory", "fail" if server > free else "warn", words, do)


def held_out(settings: Settings) -> Finding:
    """Read the held-out prompts."""
    from app.held_out import entries, gym_problems, require_held_out

    if settings.heldout is None:
        return Finding("held-out", "skip", "none are set (LEPO_HELDOUT); uploaded ones: lepo data held-out list")
    try:
        require_held_out(settings)
        asked = gym_problems(settings.heldout, settings.heldout_size) or list(
            entries(settings.heldout, settings.heldout_size)
        )
    except LepoError as error:
        return Finding("held-out", "fail", error.message, "server and worker refuse to start on it: docs/deploy.md")
    words = f"{len(asked)} prompts with graders in {settings.heldout}"
    if len(asked) < FEW:
        return Finding("held-out", "warn", f"{words}: too few to see small gains", f"give it {FEW} or more")
    return Finding("held-out", "ok", words)
