"""What people do with the console, in a real browser; what came of it is looked up through the API or in the store."""

import json
import re
from datetime import timedelta
from pathlib import Path

from playwright.sync_api import Browser, expect

from app.identifiers import show
from app.store import jobs, learning, policy_life
from app.store.console_sessions import make_link
from app.store.events import say
from tests.app.api.console.reader import Filled, found_by_axe, opened


def test_a_link_signs_in_and_leaves_no_trace_in_the_address(browser: Browser, filled: Filled) -> None:
    with filled.live.store.session() as session:
        link = make_link(session)
    with opened(browser, filled.live, key=None) as page:
        page.goto(f"/console/sign-in#link={link}")
        expect(page.get_by_role("navigation", name="Pages")).to_be_visible()
        assert link not in page.url
        page.get_by_role("button", name="Sign out").click()
        page.goto("/console")
        assert page.url.endswith("/console/sign-in")


def test_the_overview_says_why_nothing_is_learned_and_what_to_do(browser: Browser, filled: Filled) -> None:
    with opened(browser, filled.live) as page:
        now = page.get_by_role("region", name="What it is doing now")
        expect(now).to_contain_text(f"Version {filled.held} waits for you")
        now.get_by_role("link", name="Promote it").click()
        expect(page.get_by_role("heading", name=f"Promote version {filled.held}?")).to_be_visible()
        expect(page.get_by_text("New requests are answered by")).to_be_visible()
        page.get_by_role("link", name="Leave it as it is").click()
        expect(page.get_by_role("heading", name=f"Version {filled.held} held")).to_be_visible()


def test_an_answer_is_found_seen_through_and_graded(browser: Browser, filled: Filled) -> None:
    with opened(browser, filled.live) as page:
        page.goto("/console/answers")
        page.keyboard.press("/")
        page.keyboard.type("2 + 2")
        page.keyboard.press("Enter")
        page.get_by_role("link", name="And 2 + 2").click()
        thought = page.get_by_role("region", name="Latent steps")
        expect(thought.get_by_role("img")).to_have_count(3)
        expect(thought.get_by_text("effective of").first).to_be_visible()
        assert page.locator(".tokens .token").count() >= 4
        page.keyboard.press("1")
        expect(page.get_by_role("status")).to_have_text("Graded 1.")
        page.get_by_label("What it should have been").fill("4")
        page.get_by_role("button", name="Correct without a number").click()
        said = page.get_by_role("region", name="History of grades")
        expect(said).to_contain_text("correction")
        expect(said.get_by_text("superseded")).to_be_visible()
        found = page.url.rpartition("/")[2].partition("?")[0]
    entries = filled.live.http("admin").get(f"/v1/interactions/{found}/grades").json()["data"]
    assert [(one["state"], one["value"], one["correction"], one["grader"]["kind"]) for one in entries] == [
        ("graded", 1.0, None, "person"),
        ("corrected", None, "4", "person"),
    ]


def test_a_session_is_read_as_a_conversation(browser: Browser, filled: Filled) -> None:
    with opened(browser, filled.live) as page:
        page.goto("/console/answers?user=ada")
        page.get_by_role("link", name="session, turn 2").click()
        expect(page.get_by_role("heading", name="a talk")).to_be_visible()
        assert page.locator(".said-by pre").all_inner_texts()[::2] == ["What is 1 + 1", "And 2 + 2"]


def test_the_queue_is_worked_off_by_keyboard(browser: Browser, filled: Filled) -> None:
    live = filled.live
    ids = [live.answer(max_tokens=3, seed=seed)["choices"][0]["interaction_id"] for seed in (11, 12, 13)]
    with opened(browser, live) as page:
        page.goto("/console/review")
        card = page.locator("#card")
        for press, words in (("1", "Graded 1."), ("0", "Graded 0.")):
            page.keyboard.press(press)
            expect(card.get_by_role("status")).to_have_text(words)
        page.keyboard.press("c")
        page.keyboard.type("five")
        page.keyboard.press("Control+Enter")
        expect(card.get_by_role("status")).to_have_text("Corrected.")
    api = live.http("admin")
    said = [api.get(f"/v1/interactions/{one}/grades").json()["data"][-1] for one in reversed(ids)]
    assert [(one["value"], one["correction"]) for one in said] == [(1.0, None), (0.0, None), (None, "five")]


def test_who_disagrees_is_shown_until_somebody_decides(browser: Browser, filled: Filled) -> None:
    live = filled.live
    answer = live.answer(max_tokens=3, seed=21)["choices"][0]["interaction_id"]
    for value, name in ((1, "ann"), (0, "ben")):
        body = {"value": value, "grader": {"kind": "user", "id": name}}
        assert live.http().post(f"/v1/interactions/{answer}/grades", json=body).status_code == 201
    with opened(browser, live) as page:
        page.goto("/console/review?queue=disputed")
        expect(page.locator("#card")).to_contain_text("ann")
        expect(page.locator("#card")).to_contain_text("ben")


def test_policies_are_moved_with_a_word_to_the_record(browser: Browser, filled: Filled) -> None:
    with opened(browser, filled.live) as page:
        page.goto("/console/policies")
        page.get_by_role("link", name=f"Version {filled.held}, held", exact=False).first.click()
        page.get_by_role("link", name="Promote").click()
        page.get_by_label("Why, for the record").fill("it looks right")
        page.get_by_role("button", name="Promote it").click()
        expect(page.get_by_role("status")).to_have_text("Done.")
        expect(page.get_by_role("region", name="Why")).to_contain_text("it looks right")
        page.goto("/console/policies/0")
        page.get_by_role("link", name="Roll back to it").click()
        expect(page.get_by_text("Learning is frozen until somebody thaws it")).to_be_visible()
        page.get_by_role("button", name="Roll back").click()
        expect(page.get_by_role("heading", name="Version 0 serving")).to_be_visible()
        page.goto("/console")
        expect(page.get_by_role("heading", name="Learning is frozen")).to_be_visible()
        page.get_by_role("link", name="Thaw").click()
        page.get_by_role("button", name="Thaw").click()
        expect(page.get_by_role("heading", name="Learning is frozen")).to_have_count(0)
    with filled.live.store.session() as session:
        served = policy_life.serving(session)
        assert served is not None
        assert served.version == 0
        assert learning.read(session).frozen_at is None
        reasons = [row.reason for row in policy_life.history(session)]
    assert "it looks right" in reasons


def test_an_update_is_asked_for_followed_and_cancelled(browser: Browser, filled: Filled) -> None:
    with opened(browser, filled.live) as page:
        page.goto("/console/jobs")
        page.get_by_role("button", name="Ask for an update now").click()
        expect(page.get_by_role("status")).to_contain_text("is asked for")
        page.goto("/console")
        expect(page.get_by_role("region", name="What it is doing now")).not_to_contain_text("Learning now")
        page.goto("/console/jobs")
        page.locator("td a").first.click()
        expect(page.get_by_text("It waits for a worker.")).to_be_visible()
        page.get_by_role("button", name="Cancel it").click()
        expect(page.get_by_role("status")).to_contain_text("asked to end")
        expect(page.get_by_role("region", name="Course")).to_contain_text("cancelled")


def test_the_playground_asks_two_ways_grades_and_shows_the_thought(browser: Browser, filled: Filled) -> None:
    with opened(browser, filled.live) as page:
        page.goto("/console/playground")
        page.get_by_label("Your message").fill("What is 3 + 4")
        for name in "ab":
            page.locator(f"#{name}-max_tokens").evaluate("(one) => { one.value = 4; }")
        page.get_by_role("button", name="Send").click()
        sides = [page.get_by_role("region", name=f"Side {name}") for name in "ab"]
        for side in sides:
            expect(side.get_by_role("button", name="Right")).to_be_visible()
            expect(side.locator(".who-said")).to_have_text("version 0")
        assert sides[0].locator(".answer .token").count() >= 1
        sides[0].get_by_role("button", name="Wrong").click()
        expect(sides[0].locator(".outcome")).to_have_text("Graded 0.")
        sides[1].get_by_role("button", name="Correct it").click()
        sides[1].get_by_label("What it should have been").fill("7")
        sides[1].get_by_role("button", name="Send the correction").click()
        expect(sides[1].locator(".outcome")).to_have_text("Corrected.")
        sides[0].get_by_role("button", name="How it thought").click()
        expect(sides[0].get_by_role("region", name="Latent steps").get_by_role("img")).to_have_count(3)
        sides[1].get_by_role("button", name="How it thought").click()
        expect(sides[1].get_by_text("It has none")).to_be_visible()
        sides[0].get_by_role("button", name="Copy as Python").click()
        python = sides[0].locator("[data-as=python]")
        expect(python).to_have_attribute("data-written", re.compile(r"\S"))
        copied = python.get_attribute("data-written") or ""
        asked = [side.locator(".open").get_attribute("href") for side in sides]
    compile(copied, "copied", "exec")
    assert '"length":3' in copied
    api = filled.live.http("admin")
    entries = [api.get(f"/v1/interactions/{str(path).rpartition('/')[2]}/grades").json()["data"] for path in asked]
    assert [(one[-1]["value"], one[-1]["correction"]) for one in entries] == [(0.0, None), (None, "7")]


def test_a_grader_is_tried_a_key_made_and_closed_and_a_user_deleted(browser: Browser, filled: Filled) -> None:
    live = filled.live
    live.chat(user="bob", max_tokens=2)
    with opened(browser, live) as page:
        page.goto("/console/data")
        page.get_by_label("The grader, as a request would name it").fill('{"type": "string_check"}')
        page.get_by_role("button", name="Check it").click()
        expect(page.get_by_role("alert")).to_contain_text("grader")
        spec = '{"type": "string_check", "reference": "no answer is this", "operation": "ne"}'
        page.get_by_label("The grader, as a request would name it").fill(spec)
        page.get_by_role("button", name="Check it").click()
        tried = page.get_by_role("region", name="Graders").locator("tbody tr")
        expect(tried.first).to_contain_text("1")
        page.get_by_label("Name of a new key").fill("phone")
        page.get_by_role("button", name="Make a key").click()
        key = page.get_by_role("status", name="New key").locator("code").inner_text()
        opens = {"Authorization": f"Bearer {key}"}
        assert live.http(None).get("/v1/models", headers=opens).status_code == 200
        page.goto("/console/data")
        page.on("dialog", lambda asked: asked.accept())
        page.get_by_role("button", name=f"close for good {key.split('-')[1]}").click()
        expect(page.get_by_role("status")).to_contain_text("is closed")
        assert live.http(None).get("/v1/models", headers=opens).status_code == 401
        page.get_by_label("User").fill("bob")
        page.get_by_label("The same again").fill("bib")
        page.get_by_role("button", name="Delete for good").click()
        expect(page.get_by_role("status")).to_contain_text("Nothing was deleted")
        page.get_by_label("User").fill("bob")
        page.get_by_label("The same again").fill("bob")
        page.get_by_role("button", name="Delete for good").click()
        expect(page.get_by_role("status")).to_contain_text("Deleted")
    assert live.http("admin").get("/v1/interactions?user=bob").json()["data"] == []


def test_an_update_is_seen_as_it_happens(browser: Browser, filled: Filled) -> None:
    store, lease = filled.live.store, timedelta(minutes=5)
    with store.session() as session:
        jobs.request(session, trigger="admin", requested_by="ann")
        job = jobs.start(session, "a worker", lease)
        assert job is not None
        fence = job.fence
        assert fence is not None
        job_id = job.id
    with opened(browser, filled.live) as page:
        page.goto(f"/console/jobs/{show('job', job_id)}")
        course = page.get_by_role("region", name="Course")
        expect(course).to_contain_text("getting ready")
        with store.session() as session:
            jobs.advance(session, job_id, fence, "update", lease)
            say(session, job_id, "thirty answers claimed")
        expect(course).to_contain_text("updating the weights")
        expect(course).to_contain_text("thirty answers claimed")
        with store.session() as session:
            jobs.finish(
                session, job_id, fence, "failed", "release", fault="policy", error="the gradient was not finite"
            )
        expect(course).to_contain_text("the gradient was not finite")
        expect(page.get_by_role("button", name="Ask for the same again")).to_be_visible()


def test_held_out_questions_are_uploaded_and_another_version_is_asked(
    browser: Browser, filled: Filled, tmp_path: Path
) -> None:
    file = tmp_path / "heldout.jsonl"
    line = json.dumps({"prompt": "2 + 3", "grader": {"type": "math", "reference": "5"}})
    with opened(browser, filled.live) as page:
        page.goto("/console/data")
        section = page.get_by_role("region", name="Held-out questions")
        for lines, words in (
            (f"{line}\nnot json\n", "line 2 is not a prompt"),
            (f"{line}\n", "The gate asks held-out set 1"),
            (f"{line}\n{line}\n", "The gate asks held-out set 2"),
        ):
            file.write_text(lines)
            section.get_by_label("A file of held-out questions").set_input_files(file)
            expect(section.get_by_label("Its lines")).to_have_value(lines)
            section.get_by_role("button", name="Upload, and ask these").click()
            expect(page.get_by_role("main")).to_contain_text(words)
            if "not json" in lines:
                expect(section.get_by_label("Its lines")).to_have_value(lines)
        assert found_by_axe(page) == []
        section.get_by_role("button", name="ask version 1").click()
        expect(section).to_contain_text("The gate asks version 1")
        page.set_viewport_size({"width": 390, "height": 900})
        assert not page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        page.on("dialog", lambda asked: asked.accept())
        section.get_by_role("button", name="Ask none of these").click()
        expect(page.get_by_role("main")).to_contain_text("The gate asks what LEPO_HELDOUT names")
    sets = filled.live.http("admin").get("/v1/admin/held-out").json()["data"]
    assert [(one["version"], one["prompts"], one["active"]) for one in sets] == [(2, 2, False), (1, 1, False)]
