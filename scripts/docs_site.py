"""What the documentation's build adds: pages that the code writes itself, and those that live beside docs/.

A hook of mkdocs (`mkdocs.yml`). Links to files outside docs/ become the file's name: the site has no source code.
"""

import json
import os
import re
from pathlib import Path
from posixpath import normpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s#]+)(#[^)\s]*)?\)")
NO_SCHEMA = (
    "# Routes\n\nEvery server says what its routes take and give: `/docs` to try them, `/openapi.json` for tools.\n"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def pages() -> dict[str, str]:
    """Write every page that is no file of docs/."""
    from app.cli import build
    from app.reference import commands, events, metrics, routes

    schema = ROOT / "docs" / "openapi.json"
    return {
        "reference/commands.md": commands.page(build()),
        "reference/events.md": events.page(),
        "reference/metrics.md": metrics.page(),
        "reference/routes.md": routes.page(json.loads(schema.read_text())) if schema.exists() else NO_SCHEMA,
        "security.md": (ROOT / "SECURITY.md").read_text(),
    }


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links that leave docs/ into words."""
    folder = os.path.dirname(page.file.src_uri)  # noqa: PTH120 - a URI

    def inside(found: re.Match[str]) -> str:
        words, target = found[1], found[2]
        leaves = "://" not in target and normpath(f"{folder}/{target}" if folder else target).startswith("..")
        return words if leaves else found[0]

    return LINK.sub(inside, markdown)
