"""`python -m benchmarks.gpu`: check one machine, right first, then fast; `scripts/gpu_check.sh` runs it.

Needs torch, transformers and safetensors alone, and no network, database or other process. On a CPU it runs the same
code on a small shape: that it runs is all that says.
"""

import argparse
import sys
from pathlib import Path


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; nothing heavy is imported for it."""
    parser = argparse.ArgumentParser(prog="gpu_check.sh", description="Check one machine: right first, then fast.")
    parser.add_argument("--cpu", action="store_true", help="run the same code on a CPU, on a small shape; seconds")
    parser.add_argument("--budget", type=float, default=600.0, help="seconds in all; what no longer fits is skipped")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the report")
    parser.add_argument("--only", nargs="*", default=[], help="sections whose name holds one of these words")
    parser.add_argument(
        "--no-kernels", action="store_true", help="the quick forward by torch's operations, not Triton's"
    )
    parser.add_argument("--scratch", type=Path, help="folder for checkpoints: 8 GB (default: the system's)")
    parser.add_argument("--json", action="store_true", help="the report on the last line of stdout, too")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the check; 0 when nothing failed."""
    asked = parsed(arguments)
    from benchmarks.gpu.sections import run

    return run(asked)


if __name__ == "__main__":
    sys.exit(main())
