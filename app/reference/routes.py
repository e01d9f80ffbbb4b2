"""The page of routes, from an OpenAPI schema: method, path, what it does, by kind."""

from collections.abc import Mapping
from typing import Any, Final

HEAD: Final = """\
# Routes

What the server's OpenAPI schema (`GET /openapi.json`, `/docs` to try it) says of each. Bodies and answers are there.
"""


def page(schema: Mapping[str, Any]) -> str:
    """Write every route."""
    kinds: dict[str, list[str]] = {}
    for path, methods in schema["paths"].items():
        for method, said in methods.items():
            words = said.get("summary") or ""
            about = (said.get("description") or "").split("\n\n", maxsplit=1)[0].replace("\n", " ").replace("|", "\\|")
            kinds.setdefault((said.get("tags") or ["other"])[0], []).append(
                f"| `{method.upper()} {path}` | {about or words} |"
            )
    tables = (
        f"\n## {kind}\n\n| route | |\n|---|---|\n" + "\n".join(rows) + "\n" for kind, rows in sorted(kinds.items())
    )
    return HEAD + "".join(tables)
