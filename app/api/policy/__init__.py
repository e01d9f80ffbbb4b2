"""Which policy this server serves: the first one, the bell that rings for a new one, and the watch that swaps."""
