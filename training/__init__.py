"""LEPO (arXiv:2604.17892) as code: how a latent step is drawn, and how a policy gets better.

Read it in this order:

    the algorithm     loop: answer, grade, compare, learn
    a step            latent: the mathematics; candidates, noise, sampling: what it takes; controls, draw, one_pass: for
                      many answers at once
    an answer         sample: the reference sampler; placement: where latent steps sit; rollout: what is recorded, and
                      codec: its bytes; traces: its figures
    once more         executed, shared_prompts: what a forward pass reads; scoring, replay: its log-probabilities
    the objective     advantage: compared with what; kl, importance, divergence: who drew it; objective: one number
                      distill: corrections
    an update         update: the whole of it; optimization/: micro-batches, gradient, optimizer, guards

Beside the paper: models/ (open, adapt, publish), memory/, distributed/, statistics/ (the gate's and the canary's),
graders/, tasks/, and demo_model/ and bench_model/, the recipes of our small models.

May import torch, transformers, safetensors, numba, math-verify and the standard library; never `app`, `worker`, a clock
or the environment.
"""
