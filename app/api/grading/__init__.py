"""Grades of answers, corrections, graders, and sessions with the grades of whole episodes."""
