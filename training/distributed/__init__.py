"""Several processes that learn together."""
