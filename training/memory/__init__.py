"""What learning takes of memory: planned, freed, laid aside, recomputed."""
