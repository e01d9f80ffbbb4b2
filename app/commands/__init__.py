"""Doors of the command line: each reads its options and settings, and calls a room.

Light at import; whatever is heavy is imported by the command's body.
"""
