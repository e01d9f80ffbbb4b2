"""A small world to learn in: a tiny model on disk, its base checkpoint served, answers it really gave, and grades.

The reward is a property of the answer that a random model has half of the time and can learn: its first token's id is
even. Everything else is the product: store, engine, learner, checkpoints.
"""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import torch
from sqlalchemy import select
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from app.engine.config import EngineConfig
from app.engine.constraint import Constraint
from app.engine.engine import Engine
from app.engine.request import Finished, Request
from app.settings import Settings
from app.store import checkpoints, keys, policy_life
from app.store.connect import Store
from app.store.grades import Entry, add_grade
from app.store.interactions import record
from app.store.tables import Checkpoint, Claim, Interaction, Job, StoredRequest
from training.codec import CODEC_VERSION, encode
from training.models.checkpoint import publish, verify
from training.models.policy import Policy, load_policy
from training.sampling import Sampling
from worker.resident import Context, Resident

SPECIAL = ["<pad>", "<eos>"]
CREATED = "2026-01-01T00:00:00+00:00"


def make_model(directory: Path) -> Path:
    """Save a random Qwen2 that reads and writes single bytes; what it answers depends on every weight."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_ = Tokenizer(models.BPE({token: index for index, token in enumerate([*SPECIAL, *letters])}, merges=[]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytes_.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytes_, pad_token=SPECIAL[0], eos_token=SPECIAL[1])
    config = Qwen2Config(
        vocab_size=264,  # the tokenizer class adds a token of its own
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=True,
        initializer_range=0.1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def even(answer: Finished) -> float:
    """The reward: 1 when the answer's first token has an even id."""
    return float(answer.rollout.token_ids_T[0] % 2 == 0)


@dataclass(slots=True)
class World:
    store: Store
    settings: Settings
    context: Context
    _seeds: Iterator[int] = field(default_factory=lambda: itertools.count(1000))
    _key_ids: dict[str, str] = field(default_factory=dict)

    @property
    def checkpoints_dir(self) -> Path:
        return self.settings.var_dir / "checkpoints"

    def serving(self) -> Checkpoint:
        with self.store.session() as session:
            found = policy_life.serving(session)
            assert found is not None
            return found

    def policy(self) -> Policy:
        row = self.serving()
        return load_policy(row.path, version=row.version, dtype=torch.float32, device="cpu")

    def key(self, name: str) -> str:
        if name not in self._key_ids:
            with self.store.session() as session:
                self._key_ids[name] = keys.create_key(session, name, ["infer", "grade"])[0].id
        return self._key_ids[name]

    def ask(
        self,
        prompts: Sequence[str],
        choices: int = 1,
        *,
        asker: str | None = None,
        grader: Mapping[str, Any] | None = None,
        task: str | None = None,
        policy: Policy | None = None,
        altered: bool = False,
        temperature: float = 1.0,
        latent_length: int = 2,
        constraint: Constraint | None = None,
    ) -> list[tuple[UUID, Finished]]:
        """Have the serving policy (or another) answer, and remember the answers as the server does."""
        policy = policy or self.policy()
        requests = [
            Request(
                prompt_ids=tuple(policy.tokenizer.encode(prompt)),
                sampling=Sampling(latent_length=latent_length, temperature=temperature, seed=next(self._seeds) * 1000),
                max_new=6,
                choices=choices,
                logit_bias={5: 1.0} if altered else {},
                constraint=constraint,
            )
            for prompt in prompts
        ]
        engine = Engine(policy, EngineConfig.from_settings(self.settings))
        answered = engine.generate(requests)
        engine.close(0)
        found = []
        with self.store.session() as session:
            for prompt, finished in zip(prompts, answered, strict=True):
                group = f"chatcmpl-{next(self._seeds)}"
                asked = StoredRequest(
                    body={"messages": [{"role": "user", "content": prompt}]},
                    prompts=[prompt],
                    grader=None if grader is None else dict(grader),
                    client_metadata=None if task is None else {"task": task},
                )
                for one in finished:
                    row = Interaction(
                        completion_id=group,
                        choice=one.choice,
                        group_size=choices,
                        endpoint="chat",
                        model="lepo",
                        checkpoint_id=checkpoints.by_version(session, policy.version).id,
                        policy_version=policy.version,
                        api_key_id=None if asker is None else self.key(asker),
                        asked=asked,
                        prompt_tokens=len(one.rollout.prompt_ids_P),
                        answer=one.text,
                        finish_reason=one.reason,
                        usage={},
                        grading_state="none" if grader is None else "pending",
                        learnable=True,
                    )
                    record(session, row, codec=CODEC_VERSION, payload=encode(one.rollout))
                    found.append((row.id, one))
        return found

    def grade(
        self,
        answers: Sequence[tuple[UUID, Finished]],
        value: Callable[[Finished], float] = even,
        grader: str = "someone",
        *,
        keyed: bool = False,
    ) -> list[UUID]:
        with self.store.session() as session:
            for interaction_id, finished in answers:
                key = self.key(grader) if keyed else None
                add_grade(session, interaction_id, Entry("client", grader, value=value(finished), api_key_id=key))
        return [interaction_id for interaction_id, _ in answers]

    def samples(self, groups: int = 8, choices: int = 4) -> list[UUID]:
        """Ask and grade groups with something to learn in them."""
        prompts = [f"w{2 + index % 28} w{3 + index % 7}" for index in range(groups)]
        return self.grade(self.ask(prompts, choices))

    def jobs(self) -> list[Job]:
        with self.store.session() as session:
            return list(session.scalars(select(Job).order_by(Job.id)))

    def claims(self) -> dict[UUID, tuple[str, str | None]]:
        with self.store.session() as session:
            return {row.interaction_id: (row.outcome, row.reason) for row in session.scalars(select(Claim))}

    def reasons(self) -> dict[str, int]:
        """Count claims by outcome, skipped ones by their reason."""
        found: dict[str, int] = {}
        for outcome, reason in self.claims().values():
            found[reason or outcome] = found.get(reason or outcome, 0) + 1
        return found

    def with_settings(self, **changes: Any) -> "World":
        """The same world under other settings, in a worker of its own."""
        settings = Settings.model_validate({**self.settings.model_dump(), **changes})
        context = replace(self.context, settings=settings, resident=Resident(settings))
        return World(self.store, settings, context, self._seeds, self._key_ids)


def make_world(store: Store, model: Path, var_dir: Path, redis_url: str = "redis+socket:///nowhere") -> World:
    """Publish the model as version 0 and serve it, as a server does at its first start."""
    settings = Settings(
        var_dir=var_dir,
        min_grades=8,
        max_grades=64,
        group_grace=0,
        learn_interval=0.05,
        learner_lease=2,
        key_patience=0,
        max_divergence=10,
        latent_length=2,
        max_completion_tokens=6,
        learning_rate=0.02,
        weight_decay=0.0,
        max_length=64,
        slots=32,
        phase_deadline=60,
        gate_no_signal="promote",  # most tests are not about the gate
    )
    base = load_policy(model, version=0, dtype=torch.float32, device="cpu")
    directory = publish(base, var_dir / "checkpoints", version=0, parent_version=None, training={}, created=CREATED)
    with store.session() as session:
        row = checkpoints.publish(session, path=str(directory), digest=verify(directory).fingerprint)
        policy_life.promote(session, row.id, "the base model", "test")
    return World(store, settings, Context(settings, store, redis_url, Resident(settings)))


def write_heldout(path: Path, prompts: Sequence[str], grader: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps({"prompt": prompt, "grader": dict(grader)}) + "\n" for prompt in prompts))
    return path
