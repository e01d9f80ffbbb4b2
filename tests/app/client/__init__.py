"""Tests of `app.client`."""
