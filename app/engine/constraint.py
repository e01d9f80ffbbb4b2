"""What an answer's text must be: one frozen value that travels from the request to the rows.

Plain data: how it is compiled and followed is `app.engine.grammar`'s, and what clients may ask for the API's.
"""

from dataclasses import dataclass
from typing import Literal

ConstraintKind = Literal["json_schema", "regex", "lark"]


@dataclass(frozen=True, slots=True)
class Constraint:
    """A language that the answer's text is a word of; equal ones are compiled once.

    Example: `Constraint("regex", "(yes|no)")`.
    """

    kind: ConstraintKind  # how `text` is to be read
    text: str  # a JSON Schema as JSON, a regular expression (Rust's dialect), or a grammar in llguidance's Lark
