"""Measurements of the engine, the swap, the server and the update, peers side by side."""
