"""A system that nobody has asked anything yet explains itself, on a phone too."""

from playwright.sync_api import Browser, expect

from tests.app.api.console.reader import found_by_axe, opened
from tests.app.api.live import Live


def test_an_empty_system_shows_three_steps_to_copy(browser: Browser, live: Live) -> None:
    with opened(browser, live, width=390) as page:
        page.goto("/console")
        expect(page.get_by_role("heading", name="Not yet: the model you brought serves")).to_be_visible()
        expect(page.get_by_role("heading", name=f"Waiting for grades: 0 of {live.settings.min_grades}")).to_be_visible()
        steps = page.get_by_role("region", name="First steps")
        expect(steps.get_by_role("button", name="Copy")).to_have_count(3)
        assert found_by_axe(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for path, words in (
            ("/console/answers", "Nobody has asked anything yet"),
            ("/console/review", "Nothing to review"),
            ("/console/jobs", "No update began yet"),
            ("/console/policies", "version 0"),
        ):
            page.goto(path)
            expect(page.get_by_role("main")).to_contain_text(words)
