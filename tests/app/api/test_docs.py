"""`/docs` without a network: all it loads is ours, is there, and is all that its policy lets load."""

import hashlib
import re
from importlib.resources import files

import httpx

from tests.app.api.live import Live

DIGESTS = {  # of swagger-ui-dist 5.35.0
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
}


def test_the_page_loads_only_what_lies_beside_it(live: Live) -> None:
    page = httpx.get(f"{live.url}/docs")
    policy = page.headers["content-security-policy"]
    assert page.status_code == 200
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert re.findall(r"<script[^>]*>([^<]+)</script>|\son\w+=|style=", page.text) == [], "nothing stands inline"
    loaded = re.findall(r"""(?:src|href)=["'](?!data:)([^"']+)""", page.text)
    assert len(loaded) == 3
    for path in loaded:
        part = httpx.get(live.url + path)
        assert (part.status_code, part.headers["content-security-policy"]) == (200, policy), path
        assert part.headers["content-type"].startswith("text/css" if path.endswith(".css") else "text/javascript")
    asked = re.findall(r'url: "([^"]+)"', httpx.get(f"{live.url}/docs/start.js").text)
    assert asked == ["/openapi.json"]
    assert httpx.get(live.url + asked[0]).json()["paths"]
    assert live.http().get("/docs/docs.html").status_code == 404
    assert live.http().get("/docs/..%2ftemplates%2fbase.html").status_code == 404


def test_what_is_not_ours_is_unchanged_and_comes_with_its_licence() -> None:
    beside = files("app.api.console").joinpath("swagger")
    for name, digest in DIGESTS.items():
        assert hashlib.sha256(beside.joinpath(name).read_bytes()).hexdigest() == digest, name
    assert "Apache License" in beside.joinpath("LICENSE").read_text()
    css = beside.joinpath("swagger-ui.css").read_text()
    assert not re.search(r"@import|url\((?!\"?data:|#)", css), "the style sheet loads nothing"
