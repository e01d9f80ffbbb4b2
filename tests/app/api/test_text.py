"""Text where spaces belong to words and characters to several tokens: shown alike whole and streamed, every place true.

The model is random and so are its bytes: what is cut inside a character, or spells none, is what it says most.
"""

import json
import random
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from app.api.answering.ask import Prompt
from app.api.answering.places import of_prompt
from app.api.answering.prompts import PromptReader
from app.api.answering.token_names import TokenNames
from app.engine.text import Detokenizer, decoder
from app.errors import BadRequest
from app.store.policy_life import serving
from tests.app.api.live import CONTEXT, Live, served, sse
from tests.app.spelling import BYTES, sentencepiece_like
from tests.tiny import SHAPE
from training.advantage import Graded
from training.models.policy import load_policy
from training.sampling import Sampling
from training.tasks.problem import Problem
from worker.gate.evaluation import EvaluationPlan, Item, evaluate
from worker.gate.evaluation_set import question_of
from worker.offline.answers import Asking, answer
from worker.resample import drawn as drawn_again
from worker.samples import Sample

THE, CAT, LETTER, BYTE = 4, 5, 10, BYTES + ord("A")  # " the", " cat", "A", and the byte of an A
ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "max_position_embeddings": CONTEXT}
PROMPTS = ["the cat", "the cats  sat\u00e9\U0001f642", [1, THE, CAT, BYTES + 0xC3]]


@pytest.fixture(scope="module")
def spelled(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A server of a model whose tokenizer is as SentencePiece's."""
    directory = tmp_path_factory.mktemp("spelled")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE | {"vocab_size": BYTES + 256, **ENDS})).save_pretrained(
            directory
        )
    sentencepiece_like().save_pretrained(directory)
    with served(module_database_url, directory, tmp_path_factory.mktemp("var"), max_top_k=64, top_k=64) as server:
        yield server


@pytest.fixture(scope="module")
def reader() -> PromptReader:
    return PromptReader(sentencepiece_like())


def complete(live: Live, **body: Any) -> dict[str, Any]:
    response = live.http().post("/v1/completions", json={"model": "lepo", "max_tokens": 40, "seed": 1, **body})
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()["choices"][0]
    return found


def streamed(live: Live, **body: Any) -> list[dict[str, Any]]:
    asked = {"model": "lepo", "max_tokens": 40, "seed": 1, "stream": True, **body}
    with live.http().stream("POST", "/v1/completions", json=asked) as response:
        return [json.loads(event)["choices"][0] for event in sse(response)[:-1]]


def always(*tokens: int) -> dict[str, float]:
    return {str(token): 100.0 for token in tokens}


@pytest.mark.parametrize("more", [{}, {"echo": True}, {"echo": True, "stop": ["a", " t"]}], ids=["", "echo", "stop"])
@pytest.mark.parametrize("prompt", PROMPTS, ids=["words", "characters", "cut"])
@pytest.mark.parametrize("seed", range(3))
def test_whole_and_streamed_are_one_text_and_its_places_index_it(
    spelled: Live, seed: int, prompt: Any, more: dict[str, Any]
) -> None:
    body = {"prompt": prompt, "logprobs": 2, "seed": seed, "ignore_eos": True, **more}
    whole = complete(spelled, **body)
    events = streamed(spelled, **body)
    assert "".join(event["text"] for event in events) == whole["text"]
    shown = whole["logprobs"]
    for key, value in shown.items():
        assert value == [one for event in events for one in (event["logprobs"] or {key: []})[key]], key
    text, places = whole["text"], shown["text_offset"]
    assert places == sorted(places)
    found = 0
    for token, place in zip(shown["tokens"], places, strict=True):
        if not token.startswith(("bytes:", "<")) and place + len(token) <= len(text):
            skipped = len(token) - len(token.lstrip()) if place == 0 else 0  # a text's first space is not shown
            assert text[place:].startswith(token[skipped:]), (token, place, text)
            found += 1
        elif token.startswith("bytes:") and place < len(text):
            assert len(text[place].encode()) > 1, "it begins where its character does"
    assert found


def test_an_answer_is_the_decoding_of_its_ids_however_it_is_asked(spelled: Live, reader: PromptReader) -> None:
    """Streamed and whole chat, and what the gate and `lepo eval` make of the same ids."""
    decode = decoder(reader.tokenizer)
    broken = 0
    for seed in range(12):
        body: dict[str, Any] = {"max_tokens": 30, "ignore_eos": True, "seed": seed, "return_token_ids": True}
        choice = spelled.answer(**body)["choices"][0]
        assert choice["message"]["content"] == decode(choice["token_ids"])
        response = spelled.chat(**body, stream=True)
        deltas = [json.loads(event)["choices"][0]["delta"] for event in sse(response)[:-1]]
        assert "".join(delta.get("content", "") for delta in deltas) == choice["message"]["content"]
        broken += "\ufffd" in choice["message"]["content"]
    assert broken, "no answer held a broken character, so nothing was shown"


def test_a_model_without_turns_is_read_by_the_gate_and_by_eval_as_it_is_served(spelled: Live) -> None:
    with spelled.store.session() as session:
        row = serving(session)
        assert row is not None
    policy = load_policy(row.path, version=0, dtype=torch.float32, device="cpu")
    policy.tokenizer.chat_template = None
    body = {"temperature": 1, "top_k": 64, "top_p": 1, "latent": {"length": 0}, "max_tokens": 12}
    texts = ((seed, complete(spelled, prompt="the cat", **body | {"seed": seed})["text"]) for seed in range(99))
    seed, served_text = next((seed, text) for seed, text in texts if text.startswith(" "))
    drawn = Sampling(temperature=1.0, top_k=64, top_p=1.0, seed=seed)
    grader = {"type": "string_check", "operation": "eq", "reference": served_text}
    problem = Problem("the cat", "", grader, "", 0)
    ((finished,),) = answer(policy, [problem], Asking(drawn, max_new=12, choices=1, slots=2))
    assert finished.text == served_text
    question = question_of([{"role": "user", "content": "the cat"}], problem.grader, "here", policy.tokenizer)
    plan = EvaluationPlan("look", (Item(question.key, seed),), {})
    settings = spelled.settings.model_copy(
        update={"latent_length": 0, "temperature": 1.0, "top_p": 1.0, "max_completion_tokens": 12}
    )
    assert evaluate(policy, {question.key: question}, plan, settings).outcomes == (1.0,)
    lone = Sample(uuid4(), "key", Graded(1.0, None, 0, "key"), finished.rollout, goes_on=True)
    again = drawn_again([lone], policy, settings.model_copy(update={"resample": 8}), random.Random(0), lambda: None)
    before = tuple(finished.rollout.asked_ids_P.tolist())
    for one in again[0]:
        shown = Detokenizer(decoder(policy.tokenizer), before=before)
        ids = one.rollout.token_ids_T.tolist()
        assert one.text == "".join([*map(shown.push, ids), shown.flush()]), "and what is answered again in learning"
    assert any(one.text.startswith(" ") for one in again[0])


def test_a_completion_keeps_its_first_space_and_a_turn_has_none(spelled: Live) -> None:
    cats = {"logit_bias": always(CAT), "max_tokens": 3, "latent": {"length": 0}}
    assert complete(spelled, prompt="the", **cats)["text"] == " cat cat cat"
    assert complete(spelled, prompt="the\u00e9", **cats)["text"] == " cat cat cat", "behind bytes too"
    assert complete(spelled, prompt="the", echo=True, **cats)["text"] == "the cat cat cat"
    assert complete(spelled, prompt="the", stop=" cat", **cats)["text"] == ""
    assert spelled.answer(**cats)["choices"][0]["message"]["content"] == "cat cat cat"
    begun = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "the"}]
    gone_on = spelled.answer(messages=begun, continue_final_message=True, add_generation_prompt=False, **cats)
    assert gone_on["choices"][0]["message"]["content"] == " cat cat cat", "a message that is gone on with is no new one"


def test_candidates_that_are_shown_alike_have_entries_of_their_own(spelled: Live) -> None:
    """Harnesses look the drawn token up by its name, and call it greedy when nothing is likelier."""
    body = {"prompt": "the", "max_tokens": 6, "logprobs": 5, "temperature": 0, "logit_bias": always(LETTER, BYTE)}
    shown = complete(spelled, **body)["logprobs"]
    for token, logprob, top in zip(shown["tokens"], shown["token_logprobs"], shown["top_logprobs"], strict=True):
        assert token == "A"
        assert len(top) == 5
        assert top["A"] == logprob
        assert sum(name in {f"token_id:{LETTER}", f"token_id:{BYTE}"} for name in top) == 1
    names = TokenNames(sentencepiece_like())
    assert (names[9], names[11]) == ("a", " a"), "a word and its end are not shown alike"


def test_a_session_of_plain_texts_keeps_its_ids(spelled: Live) -> None:
    """The tokenizer puts a beginning before each text, which is no part of the text."""
    asked = {"session_id": "plain", "return_token_ids": True, "max_tokens": 4, "latent": {"length": 0}}
    first = complete(spelled, prompt="the cat", logit_bias=always(BYTE), **asked)
    assert (first["text"], first["token_ids"]) == ("AAAA", [BYTE] * 4)
    second = complete(spelled, prompt="the catAAAA sat", logit_bias=always(CAT), **asked)
    assert second["prompt_token_ids"][:7] == [*first["prompt_token_ids"], *first["token_ids"]]
    assert second["text"] == " cat cat cat cat"
    third = complete(spelled, prompt="the catAAAA sat" + second["text"] + "!", **asked)
    assert third["prompt_token_ids"][: len(second["prompt_token_ids"])] == second["prompt_token_ids"]
    apart = complete(spelled, prompt="the catAAAA sat", **{**asked, "session_id": "another"})
    assert BYTE not in apart["prompt_token_ids"], "outside the session nobody knows how it was sampled"


@pytest.mark.parametrize("text", ["the cat", "the \u00e9\U0001f642 sat", "A\ufffd", "</s>the</s> cat"])
def test_every_token_of_a_prompt_has_its_place(reader: PromptReader, text: str) -> None:
    names = TokenNames(reader.tokenizer)
    prompt = reader.text(text, "prompt")
    whole = of_prompt(reader, names, prompt)
    assert (whole[0], len(whole)) == (0, len(prompt.ids))
    for token, place in zip(prompt.ids[1:], whole[1:], strict=True):
        shown = names[token]
        assert shown.startswith("bytes:") or text[place:].startswith((shown, shown.lstrip()))
    given = reader.tokens(prompt.ids, "prompt")
    if given.text.endswith(text):
        behind = len(given.text) - len(text)  # its <s> is shown
        assert [max(0, place - behind) for place in of_prompt(reader, names, given)] == whole


def test_a_text_that_is_not_given_back_as_it_was_is_placed_all_the_same(tokenizer: PreTrainedTokenizerFast) -> None:
    """As a tokenizer does that writes all letters small."""
    lower = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()))
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    reader, names = PromptReader(lower), TokenNames(lower)
    prompt = reader.text("WHAT is", "prompt")
    assert reader.decode(prompt.ids) == "what is"
    places = of_prompt(reader, names, prompt)
    assert all("what is"[place:].startswith(names[one]) for place, one in zip(places, prompt.ids, strict=True))
    assert of_prompt(reader, names, Prompt((*prompt.ids, prompt.ids[0]), "WHAT is"))[-1] == 7


def test_an_id_behind_a_gap_is_an_id_all_the_same() -> None:
    """Where ids were left free, there are fewer entries than the largest id says."""
    words = {"<unk>": 0, "a": 1, "b": 9}
    gapped = PromptReader(
        PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")))
    )
    assert gapped.tokens((1, 9), "prompt").ids == (1, 9)
    with pytest.raises(BadRequest, match="between 0 and 9"):
        gapped.tokens((10,), "prompt")
