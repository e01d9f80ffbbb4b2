"""The method bench: LEPO against its rivals, from one base, with the same budgets, by one training loop."""
