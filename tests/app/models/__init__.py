"""Models by name: fetched, found, looked at."""
