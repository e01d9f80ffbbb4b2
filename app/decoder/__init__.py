"""The decoder: any stock Hugging Face decoder run over blocks, where every row stands at a position of its own.

What it keeps per position, the cache and the masks that carry it, and the quicker ways to run the same forward. May
import `training`; never the engine, which owns the rows.
"""
