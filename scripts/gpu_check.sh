#!/usr/bin/env bash
# Checks this machine: first whether answers, swaps and updates are right on its GPU, then how fast they are.
#
#   scripts/gpu_check.sh                          on a CUDA machine: the shapes of Qwen2.5-0.5B and 3B, random weights
#   scripts/gpu_check.sh --budget 360 --out DIR   what fits into so many seconds; the report as DIR/gpu.json
#   scripts/gpu_check.sh --only swap decode       sections whose name holds one of these words
#   scripts/gpu_check.sh --cpu                    anywhere: the same code on a small shape; its figures mean nothing
#
# Needs Python >= 3.11 with torch >= 2.11, transformers >= 5.17 and safetensors; no network, database or installation of
# this project. PYTHON names the interpreter (default: .venv/bin/python if there is one, else python3). The report is on
# disk after every figure; exit status 1 when a check failed, with what failed in it.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 TOKENIZERS_PARALLELISM=false PYTHONUNBUFFERED=1
export PYTORCH_NVML_BASED_CUDA_CHECK=1  # a driver that was woken before a fork is of no use after it

python="${PYTHON:-}"
if [[ -z $python ]]; then
    python=python3
    [[ -x .venv/bin/python ]] && python=.venv/bin/python
fi
for word in "$@"; do
    [[ $word == --cpu ]] && export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
done
exec "$python" -m benchmarks.gpu "$@"
