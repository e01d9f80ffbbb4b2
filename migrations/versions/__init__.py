"""Versioned schema steps, oldest first."""
