"""How long a test waits for what must come to pass: much longer than it takes anywhere, for that costs nothing.

Leaves out bounds that are what a test is about (a lock that is not held, a deadline that is kept).
"""

from typing import Final

PATIENCE_S: Final = 120.0  # seconds
