"""What the policy is, how a latent step is drawn, and how it gets better: the paper, readable alone.

May import torch, transformers, safetensors, numba, math-verify and the standard library;
never `app`, `worker`, a clock or the environment.
"""
