"""Every page, in a real browser: nothing serious found by axe-core, no script complains, readable at 390 px, quick."""

from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.app.api.console.reader import Filled, found_by_axe, opened

FIRST_PAINT_MS = 1000


def paths(filled: Filled) -> list[str]:
    """Every page of the console, with something on it."""
    return [
        *("/console", "/console?by=time", "/console/answers", "/console/answers?q=nothing+says+this"),
        *(f"/console/answers/{filled.graded}", f"/console/sessions/{filled.session}"),
        *("/console/review", "/console/review?queue=disputed"),
        *("/console/policies", f"/console/policies/{filled.held}", f"/console/policies/{filled.held}/promote"),
        *(f"/console/compare?a=0&b={filled.held}", "/console/learning/freeze"),
        *("/console/jobs", "/console/jobs?q=claimed", f"/console/jobs/{filled.job}"),
        *("/console/playground", "/console/data"),
    ]


def scrolls_sideways(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_serious_finding(browser: Browser, filled: Filled, scheme: Literal["light", "dark"]) -> None:
    found = {}
    with opened(browser, filled.live, scheme=scheme) as page:
        for path in paths(filled):
            answer = page.goto(path)
            assert answer is not None
            assert answer.status == 200, path
            found[path] = found_by_axe(page)
    assert {path: one for path, one in found.items() if one} == {}


def test_no_page_scrolls_sideways_on_a_phone(browser: Browser, filled: Filled) -> None:
    with opened(browser, filled.live, width=390) as page:
        wide = [path for path in paths(filled) if page.goto(path) and scrolls_sideways(page)]
    assert wide == []


def test_the_form_to_sign_in_is_sound_too(browser: Browser, filled: Filled) -> None:
    with opened(browser, filled.live, key=None, width=390) as page:
        page.goto("/console")
        assert found_by_axe(page) == []
        assert not scrolls_sideways(page)


def test_dark_is_dark_and_light_is_light(browser: Browser, filled: Filled) -> None:
    grounds = []
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    for scheme in schemes:
        with opened(browser, filled.live, scheme=scheme) as page:
            grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(246, 246, 243)", "rgb(17, 20, 23)"]


def test_pages_load_only_what_is_ours_and_hold_no_script(browser: Browser, filled: Filled) -> None:
    asked: list[str] = []
    with opened(browser, filled.live) as page:
        page.on("request", lambda request: asked.append(request.url))
        for path in paths(filled):
            answer = page.goto(path)
            assert answer is not None
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            inside = (
                "[...document.scripts].filter((one) => !one.src).length + document.querySelectorAll('[style]').length"
            )
            assert page.evaluate(inside) == 0, path
    assert all(url.startswith((filled.live.url, "data:")) for url in asked)


@pytest.mark.alone
def test_the_first_page_is_there_within_a_second(browser: Browser, filled: Filled) -> None:
    paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    with opened(browser, filled.live) as page:
        times = []
        for _ in range(3):
            page.goto("/console")
            page.wait_for_function(f"() => {paint.replace('.startTime', '')}")
            times.append(page.evaluate(paint))
    assert min(times) < FIRST_PAINT_MS


def test_the_keyboard_reaches_the_content_first(browser: Browser, filled: Filled) -> None:
    with opened(browser, filled.live) as page:
        page.goto("/console/answers")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Review ungraded ones")).to_be_focused()
