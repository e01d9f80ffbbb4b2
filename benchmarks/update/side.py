"""One way in a process of its own: its time, the memory it takes on top of the model, and its gradients in a file.

Called by `benchmarks.update.command`; the last line of stdout is one JSON object. A first gradient of two short
rollouts is not measured: it makes what is made once. Memory is the highest resident size while the gradient is computed
minus the size before, gradients included; on CUDA what torch allocated.
"""

import json
import time
from pathlib import Path

import click

_HIGH_WATER = "VmHWM"


@click.command()
@click.argument("way")
@click.argument("preset")
@click.option("--threads", type=int, required=True)
@click.option("--device", required=True)
@click.option("--dtype", required=True)
@click.option("--checkpointing", is_flag=True)
@click.option("--gradients", type=click.Path(path_type=Path), help="Write them here, as safetensors.")
def command(
    way: str, preset: str, threads: int, device: str, dtype: str, checkpointing: bool, gradients: Path | None
) -> None:
    """Compute one gradient and say what it took."""
    import torch
    from safetensors.torch import save_file

    from benchmarks.shapes import build_model
    from benchmarks.update.gradient import WAYS
    from benchmarks.update.load import LOADS, rollouts_of
    from training.memory.recompute import checkpointed_layers, recomputing

    torch.set_num_threads(threads)
    load = LOADS[preset]
    model = build_model(load.shape, 0, getattr(torch, dtype), device).requires_grad_(requires_grad=True)
    layers = checkpointed_layers(model) if checkpointing else []
    rollouts = rollouts_of(load)
    WAYS[way](model, sorted(rollouts, key=lambda rollout: rollout.answer_length)[:2], load)
    model.zero_grad(set_to_none=True)
    before = _reset_peak(device)
    began = time.perf_counter()
    with recomputing(layers):
        loss = WAYS[way](model, rollouts, load)
    if device != "cpu":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - began
    figures = {"seconds": seconds, "peak_bytes": _peak(device) - before, "loss": loss}
    if gradients is not None:
        kept = {name: one.grad.float().cpu() for name, one in model.named_parameters() if one.grad is not None}
        save_file(kept, gradients)
    click.echo(json.dumps(figures))


def _reset_peak(device: str) -> int:
    """Forget the peak so far; bytes in use now."""
    import torch

    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: the high-water mark starts anew
    return _peak(device)


def _peak(device: str) -> int:
    """Highest bytes in use since the reset."""
    import torch

    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith(_HIGH_WATER))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    command()
