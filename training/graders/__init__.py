"""Verdicts on answers: each grader says graded, no grade, or failed, and never confuses the three."""
