"""Tests of the method bench."""
