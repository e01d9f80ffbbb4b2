"""The client against the real server: what it sends is taken, what comes back is read, sync and async alike."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from app.client import Answer, AsyncLepo, Grade, Lepo, LepoRefused, LepoUnreachable, Text, operator
from app.client.ndjson import Lines
from tests.app.api.live import Live

QUESTION = "What is 2 + 3"


@pytest.fixture(scope="module")
def lepo(live: Live) -> Iterator[Lepo]:
    with Lepo(live.url, live.keys["both"]) as client:
        yield client


@pytest.fixture(scope="module")
def admin(live: Live) -> Iterator[Lepo]:
    with Lepo(live.url, live.keys["admin"]) as client:
        yield client


def test_it_needs_no_torch_and_no_server_code() -> None:
    """Its users install it into their applications."""
    heavy = "{'torch', 'transformers', 'fastapi', 'sqlalchemy', 'celery', 'numba'}"
    code = f"import sys, app.client; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_answers_are_asked_for_graded_and_read_back(lepo: Lepo) -> None:
    answers = lepo.answer(QUESTION, n=2, seed=1, max_tokens=4)
    assert [one.choice for one in answers] == [0, 1]
    grade = lepo.grade(answers[1].id, True, comment="well said", grader="alice")
    assert grade.reward is not None
    assert (grade.interaction_id, grade.value, grade.comment, grade.reward.value) == (
        answers[1].id,
        1.0,
        "well said",
        1.0,
    )
    read = lepo.interaction(answers[1].id)
    assert (read.answer, read.reward, read.policy_version) == (answers[1].text, grade.reward, answers[1].policy_version)
    assert lepo.take_back(answers[1].id, grader="alice").state == "retracted"
    assert lepo.interaction(answers[1].id).reward is None


def test_a_conversation_and_a_correction(lepo: Lepo) -> None:
    told = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    [answer] = lepo.answer(told, max_tokens=4, user="eve")
    grade = lepo.grade(answer.id, correction="5")
    assert (grade.state, grade.value, grade.correction) == ("corrected", None, "5")
    assert [one.id for one in lepo.interactions(user="eve")] == [answer.id]


def test_what_is_streamed_adds_up_to_the_answer(lepo: Lepo) -> None:
    asked = {"seed": 3, "max_tokens": 6, "temperature": 0.0}
    news = list(lepo.stream(QUESTION, **asked))
    whole = [one for one in news if isinstance(one, Answer)]
    said = "".join(one.text for one in news if isinstance(one, Text))
    [same] = lepo.answer(QUESTION, **asked)
    assert [one.text for one in whole] == [said] == [same.text]
    assert lepo.grade(whole[0].id, 0.5).value == 0.5


def test_a_listing_goes_on_over_its_pages(lepo: Lepo) -> None:
    made = {one.id for one in lepo.answer(QUESTION, n=5, max_tokens=1, user="pages")}
    since = datetime.now(UTC) - timedelta(hours=1)
    found = [one.id for one in lepo.interactions(user="pages", limit=2, since=since)]
    assert len(found) == 5
    assert set(found) == made
    assert list(lepo.interactions(user="pages", until=since)) == []


def test_a_token_grades_its_one_answer(live: Live, lepo: Lepo) -> None:
    one, other = lepo.answer(QUESTION, n=2, max_tokens=1)
    with Lepo(live.url, lepo.grading_token(one.id, expires_in_s=60)) as browser:
        assert browser.grade(one.id, 1).value == 1
        with pytest.raises(LepoRefused) as refused:
            browser.grade(other.id, 1)
    assert refused.value.status == 404


def test_an_episode_is_graded_as_a_whole(lepo: Lepo) -> None:
    told = [{"role": "user", "content": QUESTION}]
    for _ in range(2):
        [answer] = lepo.answer(told, session_id="walk", max_tokens=4)
        told += [{"role": "assistant", "content": answer.text}, {"role": "user", "content": "And now"}]
    session = lepo.session("walk")
    assert (session.name, session.turns) == ("walk", 2)
    assert [turn["turn"] for turn in session.raw["data"]] == [1, 2]
    grade = lepo.grade_session("walk", 0.5, credit="last_turn", grader="referee")
    assert (grade.session_id, grade.value, grade.rule) == (session.id, 0.5, "last_turn")
    last = lepo.interaction(answer.id).reward
    assert last is not None
    assert last.value == 0.5
    assert [one.id for one in lepo.sessions(name="walk", limit=1)] == [session.id]


def test_jobs_are_started_followed_and_cancelled(admin: Lepo) -> None:
    job = admin.start_job({"learning_rate": 1e-5})
    assert (job.status, job.ended) == ("queued", False)
    assert job.id in {one.id for one in admin.jobs()}
    assert admin.cancel_job(job.id).status == "cancelled"
    said = list(admin.events(job.id, every_s=0.01))
    assert any("cancel" in one.message for one in said)
    assert [one.id for one in said] == sorted({one.id for one in said})


def test_policies_are_listed_and_moved(admin: Lepo) -> None:
    [serving] = admin.policies(state="serving")
    move = admin.promote(serving.version, reason="it serves already")
    assert (move.policy.id, move.changed) == (serving.id, False)


def test_a_refusal_says_what_the_service_said(live: Live, lepo: Lepo) -> None:
    with pytest.raises(LepoRefused, match="temperature") as refused:
        lepo.answer(QUESTION, temperature=9)
    assert (refused.value.status, refused.value.param) == (400, "temperature")
    assert refused.value.request_id
    with Lepo(live.url, "lepo-nobody") as stranger, pytest.raises(LepoRefused) as closed:
        stranger.answer(QUESTION)
    assert closed.value.status == 401
    with pytest.raises(LepoRefused):
        list(lepo.stream(QUESTION, temperature=9))


def test_the_async_client_does_the_same(live: Live) -> None:
    async def all_of_it() -> tuple[list[Answer], list[Text | Answer], Grade, int, str]:
        async with AsyncLepo(live.url, live.keys["admin"]) as lepo:
            answers = await lepo.answer(QUESTION, n=2, max_tokens=4, user="async")
            grade = await lepo.grade(answers[0].id, 1)
            read = [one.id async for one in lepo.interactions(user="async", limit=1)]
            news = [one async for one in lepo.stream(QUESTION, max_tokens=4)]
            await lepo.answer(QUESTION, max_tokens=1, session_id="async")
            assert (await lepo.grade_session("async", 1)).rule == "all_turns"
            assert [one.turns async for one in lepo.sessions(name="async")] == [(await lepo.session("async")).turns]
            job = await lepo.cancel_job((await lepo.start_job()).id)
            assert [one async for one in lepo.events(job.id, every_s=0.01)]
            assert {one.id for one in answers} == set(read)
            return answers, news, grade, len(await lepo.policies()), (await lepo.job(job.id)).status

    answers, news, grade, policies, status = asyncio.run(all_of_it())
    assert grade.interaction_id == answers[0].id
    assert isinstance(news[-1], Answer)
    assert (policies, status) == (1, "cancelled")


def test_nobody_there_is_said(free_tcp_port: int) -> None:
    with Lepo(f"http://127.0.0.1:{free_tcp_port}", "k") as lepo, pytest.raises(LepoUnreachable, match="/v1/chat"):
        lepo.answer(QUESTION)


def test_operators_ask_by_either_client(live: Live, admin: Lepo, lepo: Lepo) -> None:
    made = admin.send(operator.create_key("client", ["infer", "grade"], expires_in_s=60, max_choices=2))
    assert (made.key.name, made.key.raw["limits"]["max_choices"]) == ("client", 2)
    assert admin.send(operator.pin("exam week")).pinned == "exam week"
    assert admin.send(operator.unpin("over")).changed
    [answer] = lepo.answer(f"{QUESTION} \u2028 and", max_tokens=1, user="exported")

    async def awaited() -> list[str]:
        async with AsyncLepo(live.url, live.keys["admin"]) as client:
            assert "num_requests_running" in await client.metrics()
            return [one["id"] async for one in client.export(user="exported", rollouts=True)]

    assert asyncio.run(awaited()) == [one["id"] for one in admin.export(user="exported")] == [answer.id]
    assert admin.send(operator.erase_user("exported")).removed["interactions"] == 1
    assert admin.send(operator.revoke_key(made.key.id)).revoked_at is not None
    with pytest.raises(LepoRefused, match="admin"):
        list(lepo.export())


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_lines_are_put_together_from_pieces_of_any_size(size: int) -> None:
    texts = ["a\u2028b", "c\u0085d", "", "漢字"]
    data = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()
    lines = Lines()
    found = [one["text"] for at in range(0, len(data), size) for one in lines.piece(data[at : at + size])]
    assert found == texts
