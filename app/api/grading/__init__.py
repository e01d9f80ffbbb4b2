"""Grades of answers, corrections and graders."""
