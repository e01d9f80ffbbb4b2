"""Models whose oddity stands beside the weights: more rows than ids, several ends, templates that know few roles."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config

from app.api.answering.prompts import PromptReader
from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.request import FinishReason, Request
from app.errors import BadRequest
from tests.app.families import save
from tests.tiny import SHAPE, VOCABULARY
from training.models.checkpoint import publish
from training.models.policy import load_policy
from training.sample import sample
from training.sampling import Sampling

ROWS = VOCABULARY + 64  # of a table that is padded for the hardware's sake
TWO_ROLES = (  # as Mistral's first template: it knows neither system nor developer, and refuses the one
    "{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}{{ raise_exception('no system role') }}"
    "{%- elif message['role'] in ('user', 'assistant') %}{{ '<' + message['role'] + '>' + message['content'] }}"
    "{%- endif %}{%- endfor %}"
)

Save = Callable[..., Path]


@pytest.fixture
def odd(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Save:
    def write(*, rows: int = VOCABULARY, ends: list[int] | None = None, template: str | None = None) -> Path:
        directory = save(Qwen2Config(**SHAPE | {"vocab_size": rows}), tokenizer, tmp_path / "model")
        if ends is not None:
            GenerationConfig(eos_token_id=ends).save_pretrained(directory)
        if template is not None:
            (directory / "chat_template.jinja").write_text(template)
        return directory

    return write


def test_a_padded_vocabulary_is_served_as_the_reference_samples_it(odd: Save) -> None:
    policy = load_policy(odd(rows=ROWS), version=0, dtype=torch.float64, device="cpu")
    assert len(policy.tokenizer) < ROWS
    requests = [Request((5, 6, 7), Sampling(latent_length=2, seed=seed), 40, ignore_eos=True) for seed in range(6)]
    padding = 0
    engine = Engine(policy, EngineConfig(slots=3, max_length=64))
    for request, (finished,) in zip(requests, engine.generate(requests), strict=True):
        expected = sample(policy, request.prompt_ids, request.sampling, 40, ignore_eos=True)
        assert finished.rollout.token_ids_T.tolist() == expected.token_ids_T.tolist()
        padding += sum(token >= VOCABULARY for token in expected.token_ids_T.tolist())
    assert padding, "no id without a token was drawn, so nothing was shown"


@pytest.mark.parametrize("ends", [[7, 9], [1, 9]])
def test_every_end_of_a_list_ends_an_answer_and_is_published(odd: Save, ends: list[int], tmp_path: Path) -> None:
    policy = load_policy(odd(ends=ends), version=0, dtype=torch.float32, device="cpu")
    assert policy.eos_ids == {1, *ends}
    made = publish(policy, tmp_path / "out", version=0, parent_version=None, training={}, created="2026")
    policy = load_policy(made, version=0, dtype=torch.float32, device="cpu")
    assert policy.eos_ids == {1, *ends}
    engine = Engine(policy, EngineConfig(slots=8, max_length=512))
    requests = [Request((5, 6, 7), Sampling(seed=seed), 400) for seed in range(24)]
    ended: dict[int, FinishReason] = {}
    for (finished,) in engine.generate(requests):
        tokens = finished.rollout.token_ids_T.tolist()
        assert not {1, *ends} & set(tokens[:-1])
        ended[tokens[-1]] = finished.reason
    assert {1, *ends} <= ended.keys(), "an end never came"
    assert all(ended[end] == "stop" for end in (1, *ends))


def test_without_a_template_a_conversation_is_refused_and_text_is_read(odd: Save) -> None:
    reader = PromptReader(load_policy(odd(), version=0, dtype=torch.float32, device="cpu").tokenizer)
    with pytest.raises(BadRequest, match="no chat template: use /v1/completions"):
        reader.chat([{"role": "user", "content": "hello"}])
    assert reader.text("hello", "prompt").ids


def test_a_template_that_knows_few_roles_never_loses_a_message(odd: Save) -> None:
    reader = PromptReader(load_policy(odd(template=TWO_ROLES), version=0, dtype=torch.float32, device="cpu").tokenizer)
    question = {"role": "user", "content": "2 + 3?"}
    assert "2 + 3?" in reader.chat([question]).text
    for role in ("system", "developer", "tool"):
        read = reader.chat([{"role": role, "content": "be brief"}, question]).text
        assert "be brief" in read, "said in a role that the template knows"
        assert "2 + 3?" in read
    assert reader.chat([{"role": "developer", "content": "  "}, question]).ids, "nothing was said, nothing is lost"
