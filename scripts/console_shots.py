"""Make the pictures of docs/console.md from a system that a demo has filled: `python scripts/console_shots.py`.

Run `make demo` first: it leaves its database in var/demo/stack, which is served again here, without learning. Chromium
is the system's (`apt-get install chromium`), driven by the package playwright.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
from playwright.sync_api import Page, sync_playwright

from app.stack.stack import Stack

Act = Callable[[Page], None]
WIDE: Final = 1200
PHONE: Final = 390
HIGHEST: Final = 1050


def open_first_answer(page: Page) -> None:
    """Open a graded answer of an early version, whose steps still spread."""
    page.goto("/console/answers?grade=any&version=1")
    page.locator("a.whole").first.click()
    page.locator(".latents").wait_for()


def open_last_update(page: Page) -> None:
    """Open the last update that was promoted."""
    page.goto("/console/jobs")
    page.locator("tr:has(.state.promoted) a").first.click()
    page.locator("#samples").wait_for()


def open_serving(page: Page) -> None:
    """Open what serves."""
    page.goto("/console/policies")
    page.locator("tr:has(.state.serving) a").first.click()


def ask(page: Page) -> None:
    """Ask the playground."""
    page.goto("/console/playground")
    page.get_by_role("button", name="Send").click()
    for place in (0, 1):
        page.locator(".talk .after").nth(place).wait_for()
    page.get_by_role("button", name="How it thought").first.click()
    page.locator(".thought .latents").first.wait_for()


def at(path: str) -> Act:
    """Open a page by its path."""

    def visit(page: Page) -> None:
        page.goto(path)

    return visit


SHOTS: Final[tuple[tuple[str, Act, int, str], ...]] = (  # name, what is done first, width, colours
    ("overview", at("/console"), WIDE, "light"),
    ("overview-dark", at("/console?by=time"), WIDE, "dark"),
    ("overview-phone", at("/console"), PHONE, "light"),
    ("answer", open_first_answer, WIDE, "light"),
    ("review", at("/console/review"), WIDE, "light"),
    ("policies", at("/console/policies"), WIDE, "light"),
    ("policy", open_serving, WIDE, "light"),
    ("rollback", at("/console/policies/0/rollback"), WIDE, "light"),
    ("jobs", at("/console/jobs"), WIDE, "light"),
    ("job", open_last_update, WIDE, "light"),
    ("playground", ask, WIDE, "light"),
    ("data", at("/console/data"), WIDE, "light"),
)


@click.command()
@click.option(
    "--demo", type=click.Path(path_type=Path), default=Path("var/demo"), show_default=True, help="Its directory."
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/pictures/console"), show_default=True)
@click.option("--only", multiple=True, help="Names of pictures; without it, all.")
def main(demo: Path, out: Path, only: tuple[str, ...]) -> None:
    """Serve a demo's system again and take a picture of every page."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None or not (demo / "stack").is_dir():
        raise click.ClickException("needs Chromium (apt-get install chromium) and a demo's directory (make demo)")
    out.mkdir(parents=True, exist_ok=True)
    env = {"LEPO_PORT": "0", "LEPO_HELDOUT": str(demo / "heldout.jsonl"), "LEPO_MAX_COMPLETION_TOKENS": "40"}
    with Stack(demo / "stack", env, parts=("api",)) as stack, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, act, width, scheme in SHOTS:
            if only and name not in only:
                continue
            context = browser.new_context(
                base_url=stack.base_url,
                viewport={"width": width, "height": 800},
                color_scheme="dark" if scheme == "dark" else "light",
            )
            page = context.new_page()
            page.goto(stack.sign_in_link())
            page.get_by_role("navigation", name="Pages").wait_for()
            act(page)
            page.wait_for_load_state("networkidle")
            high = min(HIGHEST, page.evaluate("document.documentElement.scrollHeight"))
            page.set_viewport_size({"width": width, "height": max(800, high)})
            page.screenshot(path=out / f"{name}.png")
            click.echo(out / f"{name}.png")
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
