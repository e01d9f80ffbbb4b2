"""Tests of the method bench on a real model, made small."""
