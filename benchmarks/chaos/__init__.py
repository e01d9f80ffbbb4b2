"""Faults, one after another, on the running service, and an audit after each: what was lost, doubled, burnt, stuck."""
