#!/usr/bin/env bash
# Measures this machine: copy bandwidth, tokens per second against the roofline, the latent step, the swap, the update.
#
#   scripts/gpu_check.sh          on a CUDA machine: bfloat16, the shapes of Qwen2.5-0.5B and 3B, random weights; minutes
#   scripts/gpu_check.sh --cpu    anywhere: the same code on a small shape; seconds, and the figures mean nothing
#
# Needs Python >= 3.11 with torch and transformers, and no network, database or installation of this project.
# PYTHON names the interpreter (default: .venv/bin/python if there is one, else python3), RESULTS the folder of the JSON
# files (default: benchmarks/results).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false

python="${PYTHON:-}"
if [[ -z $python ]]; then
    python=python3
    [[ -x .venv/bin/python ]] && python=.venv/bin/python
fi
results="${RESULTS:-benchmarks/results}"
mkdir -p "$results"

case "${1:-}" in
--cpu)
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    "$python" -m benchmarks.gpu --shape micro --device cpu --dtype bfloat16 --brief --json --out "$results/cpu.json"
    ;;
"")
    name="$("$python" - <<'PY'
import re
import sys

import torch

if not torch.cuda.is_available():
    sys.exit("No CUDA device is visible to torch; use --cpu for a trial run.")
print(re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-"))
PY
)"
    "$python" -m benchmarks.gpu --json --out "$results/$name.json"
    "$python" -m benchmarks.engine --shape 0.5b --device cuda --dtype bfloat16 --json --out "$results/$name-engine.json"
    ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
echo "Results are in $results." >&2
