"""Replay, objective, advantages and the update, on tiny random models that really sample."""
