"""The engine: slots, cache, one fused step, prefill, and the swap of weights between two steps."""
