"""Where latent steps sit: found by the model's own chat template, executed as given, and not learned from."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, PreTrainedTokenizerBase

from training.executed import collate
from training.models.chat import render_chat
from training.models.head import take_apart
from training.models.policy import Policy
from training.placement import ANSWER, Placement, declare_placement, own_placement, placement_of
from training.replay import replay
from training.sample import sample
from training.sampling import Sampling
from training.shared_prompts import executed_length

PREAMBLE = Placement("preamble", (7, 11), (5, 13, 9))
THINKS = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}{# </think> #}"
)


@pytest.fixture
def own_tokenizer(policy: Policy) -> PreTrainedTokenizerBase:
    """One that a test may change."""
    return copy.deepcopy(policy.tokenizer)


def thinking(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that thinks between marks."""
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = THINKS
    return tokenizer


def test_a_preamble_closes_the_turn_and_opens_a_new_one(own_tokenizer: PreTrainedTokenizerBase) -> None:
    asked = [{"role": "user", "content": "2 + 3"}]
    opened = render_chat(own_tokenizer, asked)
    said = [*asked, {"role": "assistant", "content": "5"}]
    twice = render_chat(own_tokenizer, said)
    placement = placement_of("preamble", own_tokenizer)
    five = own_tokenizer.encode("5", add_special_tokens=False)
    assert [*opened, *five, *placement.lead_out_ids][: len(twice)] == twice
    added = opened[len(render_chat(own_tokenizer, asked, add_generation_prompt=False)) :]
    assert list(placement.lead_out_ids)[-len(added) :] == added
    assert placement.lead_in_ids == ()


def test_the_words_around_a_preamble_are_the_callers(own_tokenizer: PreTrainedTokenizerBase) -> None:
    placement = placement_of("preamble", own_tokenizer, "(", ")\n")
    assert own_tokenizer.decode(list(placement.lead_in_ids)) == "("
    assert own_tokenizer.decode(list(placement.lead_out_ids)) == ")\n"
    assert placement.size == len(placement.lead_in_ids) + len(placement.lead_out_ids)


def test_thinking_goes_between_the_models_own_marks(own_tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(ValueError, match="no thinking part"):
        placement_of("thinking", own_tokenizer)
    placement = placement_of("thinking", thinking(own_tokenizer))
    assert own_tokenizer.decode(list(placement.lead_in_ids)) == "<think>\n"
    assert own_tokenizer.decode(list(placement.lead_out_ids)) == "\n</think>\n\n"
    asked = tuple(own_tokenizer.encode("2 + 3 <think>\n", add_special_tokens=False))
    assert placement.before(asked) == ()  # the template opened it already
    assert placement.before(asked[:-1]) == placement.lead_in_ids


def test_a_model_that_says_nothing_gets_what_leaves_its_answers_whole(own_tokenizer: PreTrainedTokenizerBase) -> None:
    silent, declared = LlamaConfig(), LlamaConfig()
    declare_placement(declared, "answer")
    assert own_placement(silent, own_tokenizer) == "preamble"
    assert own_placement(declared, own_tokenizer) == "answer"
    assert own_placement(silent, thinking(own_tokenizer)) == "thinking"
    own_tokenizer.chat_template = None
    assert own_placement(silent, own_tokenizer) == "answer"
    assert own_tokenizer.decode(list(placement_of("preamble", own_tokenizer).lead_out_ids)) == "\n\n"


def test_without_latent_steps_nothing_is_placed(policy: Policy, prompt_ids: list[int]) -> None:
    plain = sample(policy, prompt_ids, Sampling(seed=3), 8)
    placed = sample(policy, prompt_ids, Sampling(seed=3), 8, placement=PREAMBLE)
    assert placed.token_ids_T.tolist() == plain.token_ids_T.tolist()
    assert (placed.placement, placed.lead_in, placed.lead_out_ids_O.tolist()) == ("answer", 0, [])


@pytest.mark.parametrize("placement", [ANSWER, PREAMBLE, Placement("thinking", (), (21,))])
def test_replay_is_what_was_sampled(policy: Policy, prompt_ids: list[int], placement: Placement) -> None:
    """Rollouts of every placement in one padded batch score as they were drawn."""
    drawn = [
        sample(policy, prompt_ids[: 3 + seed], Sampling(latent_length=3, seed=seed), 9 + seed, placement=placement)
        for seed in range(3)
    ]
    drawn.append(sample(policy, prompt_ids, Sampling(latent_length=2, seed=9), 12))
    with torch.no_grad():
        replayed = replay(take_apart(policy.model), drawn)
    known_BT = replayed.token_mask_BT
    torch.testing.assert_close(
        replayed.token_logprobs_BT[known_BT], replayed.recorded_logprobs_BT[known_BT], rtol=0, atol=2e-4
    )
    kept_BLK = replayed.latent_weights_BLK > 0
    torch.testing.assert_close(
        replayed.latent_current_BLK[kept_BLK], replayed.latent_recorded_BLK[kept_BLK], rtol=0, atol=2e-4
    )
    assert int(known_BT.sum()) == sum(one.answer_length for one in drawn)


def test_what_was_given_is_executed_and_not_learned(policy: Policy, prompt_ids: list[int]) -> None:
    rollout = sample(policy, prompt_ids, Sampling(latent_length=3, seed=1), 9, placement=PREAMBLE)
    batch = collate([rollout], torch.device("cpu"))
    begin = len(prompt_ids) + 2 + 3 + 3
    assert rollout.begin == begin
    assert executed_length(rollout) == batch.input_ids_RS.shape[1] == begin + rollout.answer_length - 1
    row = batch.input_ids_RS[0].tolist()
    assert row[:begin] == [*prompt_ids, 7, 11, 0, 0, 0, 5, 13, 9]
    assert batch.latents.predictor_N.tolist() == [len(prompt_ids) + 1 + step for step in range(3)]
    assert batch.tokens.predictor_N.tolist() == [begin - 1 + step for step in range(rollout.answer_length)]


def test_another_lead_out_is_another_prefix(policy: Policy, prompt_ids: list[int]) -> None:
    """Tokens are scored behind what was given: behind other words they are not as likely."""
    rollout = sample(policy, prompt_ids, Sampling(latent_length=3, seed=1), 9, placement=PREAMBLE)
    other = replace(rollout, lead_out_ids_O=torch.tensor([5, 13, 10], dtype=torch.int32))
    with torch.no_grad():
        one, two = (replay(take_apart(policy.model), [each]).token_logprobs_BT for each in (rollout, other))
    assert not torch.allclose(one, two)


def test_a_rollout_says_where_another_answer_goes(policy: Policy, prompt_ids: list[int]) -> None:
    rollout = sample(policy, prompt_ids, Sampling(latent_length=2, seed=1), 6, placement=PREAMBLE)
    assert rollout.placed == PREAMBLE
    assert rollout.asked_ids_P.tolist() == prompt_ids
    assert sample(policy, prompt_ids, Sampling(latent_length=2, seed=1), 6).placed == ANSWER
