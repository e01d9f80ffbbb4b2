"""OpenAI's API, and what vLLM's clients expect beside it: one module per route, and how its answers are written."""
