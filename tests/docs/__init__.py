"""Tests of what is written: README.md and docs/."""
