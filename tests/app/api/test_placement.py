"""Where a request's latent steps sit: the setting's place, the request's own, and what a chat model gets by itself."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.identifiers import read
from app.store.interactions import rollout
from tests.app.api.live import Live, served
from training.codec import decode
from training.placement import DECLARED
from training.rollout import Rollout


@pytest.fixture(scope="module")
def foreign_dir(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, which does not say where it was trained with latent steps."""
    directory = tmp_path_factory.mktemp("foreign")
    for file in model_dir.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    config = json.loads((directory / "config.json").read_text())
    del config[DECLARED]
    (directory / "config.json").write_text(json.dumps(config))
    return directory


@pytest.fixture(scope="module")
def foreign(module_database_url: str, foreign_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server of it."""
    with served(module_database_url, foreign_dir, tmp_path_factory.mktemp("var"), latent_lead_in="(") as server:
        yield server


def drawn(live: Live, interaction_id: str) -> Rollout:
    with live.store.session() as session:
        stored = rollout(session, read("int", interaction_id))
    assert stored is not None
    return decode(stored.payload)


def words(live: Live, ids: list[int]) -> str:
    response = live.http().post("/detokenize", json={"tokens": ids})
    text: str = response.json()["prompt"]
    return text


def test_a_chat_model_that_does_not_say_gets_a_preamble(foreign: Live) -> None:
    answer = foreign.answer()
    made = drawn(foreign, answer["choices"][0]["interaction_id"])
    assert (made.placement, made.latent_length) == ("preamble", 3)
    prompt = words(foreign, made.prompt_ids_P.tolist())
    assert prompt.endswith("assistant\n(")
    assert words(foreign, made.lead_out_ids_O.tolist()) == "<|im_end|>\n<|im_start|>assistant\n"
    usage = answer["usage"]
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 3
    assert usage["completion_tokens"] == 3 + made.answer_length
    assert usage["prompt_tokens"] == len(made.asked_ids_P)


@pytest.mark.parametrize(
    ("latent", "expected"),
    [
        ({"placement": "answer"}, ("answer", 0)),
        ({"placement": "preamble"}, ("preamble", 1)),
        ({"placement": "preamble", "length": 0}, ("answer", 0)),
    ],
)
def test_a_request_chooses(foreign: Live, latent: dict[str, object], expected: tuple[str, int]) -> None:
    answer = foreign.answer(latent=latent)
    made = drawn(foreign, answer["choices"][0]["interaction_id"])
    assert (made.placement, made.lead_in) == expected
    assert bool(len(made.lead_out_ids_O)) == (expected[0] == "preamble")


def test_a_place_the_model_does_not_have_is_refused(foreign: Live) -> None:
    response = foreign.chat(latent={"placement": "thinking"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == "latent.placement"
    assert "no thinking part" in error["message"]
    assert "preamble" in error["message"]


def test_a_plain_completion_of_a_chat_model_takes_no_latent_steps_by_itself(foreign: Live) -> None:
    asked = {"model": "lepo", "prompt": "2 + 3 =", "max_tokens": 4, "seed": 1}
    plain = foreign.http().post("/v1/completions", json=asked).json()
    assert plain["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
    wanted = foreign.http().post("/v1/completions", json={**asked, "latent": {"length": 2}}).json()
    made = drawn(foreign, wanted["choices"][0]["interaction_id"])
    assert (made.placement, made.latent_length) == ("answer", 2)


def test_a_long_prompt_leaves_no_room_for_what_nobody_asked_for(foreign: Live) -> None:
    longest = foreign.engine.max_length
    content = "a" * (longest - 40)
    while True:
        messages = [{"role": "user", "content": content}]
        count = foreign.http().post("/tokenize", json={"messages": messages}).json()["count"]
        if count >= longest - 6:
            break
        content += "a" * (longest - 6 - count)
    made = foreign.chat(messages=messages, max_tokens=None)
    assert made.status_code == 200
    assert made.json()["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
    asked = foreign.chat(messages=messages, max_tokens=None, latent={"length": 3})
    assert asked.status_code == 400


def test_the_trace_says_where(foreign: Live) -> None:
    answer = foreign.answer()
    shown = foreign.http("admin").get(
        f"/v1/interactions/{answer['choices'][0]['interaction_id']}", params={"include": "rollout"}
    )
    placement = shown.json()["rollout"]["placement"]
    assert placement["name"] == "preamble"
    assert placement["lead_out_ids"]
