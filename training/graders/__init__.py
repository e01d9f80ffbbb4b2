"""Verdicts on answers: each grader says graded, no grade, or failed, and never confuses the three.

`parse.parse_grader` turns a spec into a `grader.Grader`; `verdict` holds what it may say.
"""
