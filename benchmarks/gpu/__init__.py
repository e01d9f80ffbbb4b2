"""One machine's check: first whether answers, swaps and updates are right on its device, then how fast they are.

`scripts/gpu_check.sh` runs it where only Python, torch (2.11 or newer), transformers (5.17 or newer) and safetensors
are installed. What is right is said by `numbers`, `answers`, `swaps` and `updates`; what is fast by `device`, `figures`
and `split`.
"""
