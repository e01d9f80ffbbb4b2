"""The page is open and holds nothing; the figures behind it need an admin key."""

import re

import httpx

from tests.app.api.live import Live


def test_the_page_is_open_self_contained_and_its_figures_are_not_open(live: Live) -> None:
    page = httpx.get(f"{live.url}/dashboard")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"""(src|href)=["']https?:""", page.text), "nothing is loaded from elsewhere"
    [asked] = set(re.findall(r'fetch\("([^"]+)"', page.text))
    assert httpx.get(f"{live.url}{asked}").status_code == 401
    assert httpx.get(f"{live.url}{asked}", headers={"Authorization": f"Bearer {live.keys['both']}"}).status_code == 403
    figures = httpx.get(f"{live.url}{asked}", headers={"Authorization": f"Bearer {live.keys['admin']}"}).json()
    for name in set(re.findall(r"\bo\.([a-z_]+)", page.text)):
        assert name in figures, f"the page reads {name}"
