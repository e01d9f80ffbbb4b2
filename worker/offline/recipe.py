"""How a run of `lepo train` learns: one record, two presets, every value of it an option of the command.

`paper` holds the settings published with LEPO (arXiv:2604.17892, its released code); what it does not name is marked.
`small` is what the demo's model of 0.35M parameters learns with. Imports nothing heavy: the command's help reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

CHOICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "dtype": ("float32", "bfloat16"),
        "schedule": ("constant", "cosine"),
        "normalization": ("grpo", "bnpo", "dr_grpo"),
        "overlong": ("learn", "mask"),
        "latent_temperature": ("one", "sampling"),
        "placement": ("auto", "answer", "thinking", "preamble"),
    }
)


def _about(text: str) -> Any:
    """Make a field without a default that says what it is; the presets give the values."""
    return field(metadata={"about": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Settings of a run. Their ranges are checked where they are used, by the records they go into.

    Example: `replace(PRESETS["small"], updates=20, learning_rate=1e-4)`.
    """

    updates: int = _about("Updates in all; 0 is one pass over the data.")
    prompts: int = _about("Problems per update, > 0.")
    group: int = _about("Answers per problem, G, >= 2.")
    learning_rate: float = _about("Peak of AdamW's rate.")
    beta1: float = _about("AdamW's memory of gradients.")
    beta2: float = _about("AdamW's memory of their squares.")
    weight_decay: float = _about("Of matrices.")
    schedule: str = _about("Of the rate, after the warm-up.")
    warmup_share: float = _about("Share of the updates over which the rate rises, 0 to 1.")
    max_grad_norm: float = _about("The gradient is scaled down to this norm.")
    clip: float = _about("The ratio of tokens is clipped at 1 - clip and 1 + clip.")
    kl_beta: float = _about("Weight of the KL to the first model; above 0 a second copy is kept.")
    normalization: str = _about("Weight of a step in the loss; dr_grpo divides no advantage by its spread.")
    overlong: str = _about("Whether an answer that was cut short teaches by its grade, or not at all.")
    latent_temperature: str = _about("What divides the logits of latent steps in the loss.")
    latent_length: int = _about("Latent steps before the first token, L; 0 is GRPO.")
    placement: str = _about("Where latent steps sit; auto: as the model was trained, else so that answers are whole.")
    lead_in: str = _about("Text before the latent steps of a preamble.")
    lead_out: str = _about("Text after them; empty: the end of the assistant's turn and a new one.")
    latent_warmup: float = _about("Share of the updates over which L grows from 0 and tau from tau_start, 0 to 1.")
    tau: float = _about("Temperature of the latent steps.")
    tau_start: float = _about("Where tau begins while L grows; small: mixtures that are nearly tokens.")
    draws: int = _about("Gumbel-softmax samples whose mean a latent step is, 1 to 64.")
    temperature: float = _about("Temperature of the policy.")
    top_k: int = _about("Candidates kept per step.")
    top_p: float = _about("Nucleus kept per step.")
    max_new: int = _about("Latent steps plus tokens of an answer.")
    lora_rank: int = _about("Rank of adapters that learn instead of the weights; 0: the weights learn.")
    lora_alpha: float = _about("Scale of the adapters, as a multiple of 1 / rank.")
    dtype: str = _about("Of the weights; bfloat16 keeps float32 masters.")
    activation_checkpointing: bool = _about("Recompute layers going backward: less memory, a third more time.")
    micro_batch_positions: int = _about("Padded positions per forward of the update; 0: what the free memory holds.")
    max_kl: float = _about("An update that moved further, in nats per step, is undone.")
    every: int = _about("Updates from one validation and checkpoint to the next, > 0.")
    validation_samples: int = _about("Answers per validation problem, > 0.")
    slots: int = _about("Answers decoded together.")
    grader_timeout: float = _about("Seconds a grader has for one answer.")
    seed: int = _about("Names the order of the data, the noise and the split; 0 to 1000.")

    def __post_init__(self) -> None:
        lowest = {
            "updates": 0,
            "prompts": 1,
            "group": 2,
            "every": 1,
            "validation_samples": 1,
            "slots": 1,
            "seed": 0,
            "lora_rank": 0,
            "micro_batch_positions": 0,
        }
        for name, bound in lowest.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} must be {bound} or more, got {getattr(self, name)}")
        for name in ("warmup_share", "latent_warmup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not self.tau_start > 0:
            raise ValueError(f"tau_start must be above 0, got {self.tau_start}")
        if self.seed > 1000:
            raise ValueError(f"seed must be 1000 or less, got {self.seed}")
        if self.max_new <= self.latent_length:
            raise ValueError(f"max_new must be above latent_length {self.latent_length}, got {self.max_new}")
        if self.grader_timeout <= 0:
            raise ValueError(f"grader_timeout must be above 0, got {self.grader_timeout}")

    def at(self, update: int, updates: int) -> "Recipe":
        """Give what an update (0-based) of so many in all is answered by, while latent steps are still growing.

        A model that never met a mixture meets few and nearly one-hot ones first: the number of steps and tau rise
        together, and both are the recipe's own once the warm-up is over.
        """
        over = self.latent_warmup * updates
        if update >= over:
            return self
        share = update / over
        tau = self.tau_start + share * (self.tau - self.tau_start)
        return replace(self, latent_length=int(share * (self.latent_length + 1)), tau=tau)


PAPER = Recipe(
    updates=0,
    prompts=16,  # not named by the paper
    group=8,
    learning_rate=1e-6,
    beta1=0.9,
    beta2=0.99,
    weight_decay=0.1,
    schedule="cosine",
    warmup_share=0.03,
    max_grad_norm=1.0,
    clip=0.2,
    kl_beta=0.0,
    normalization="grpo",
    overlong="learn",
    latent_temperature="one",
    latent_length=64,
    placement="answer",
    lead_in="",
    lead_out="",
    latent_warmup=0.0,
    tau=0.5,
    tau_start=0.1,
    draws=1,
    temperature=1.0,
    top_k=30,
    top_p=0.95,
    max_new=2048,
    lora_rank=0,  # all weights, as in the paper
    lora_alpha=32.0,
    dtype="bfloat16",
    activation_checkpointing=False,  # this and what follows are ours: they say how, not what is learned
    micro_batch_positions=0,
    max_kl=0.5,
    every=50,
    validation_samples=4,
    slots=64,
    grader_timeout=10.0,
    seed=0,
)
SMALL = replace(
    PAPER,
    updates=60,
    learning_rate=3e-4,
    weight_decay=0.0,
    schedule="constant",
    warmup_share=0.0,
    latent_length=4,
    placement="auto",
    max_new=40,
    dtype="float32",
    every=10,
    slots=32,
)
PRESETS: Mapping[str, Recipe] = MappingProxyType({"paper": PAPER, "small": SMALL})
# Latent length and tau of the paper, by what a model's name holds.
PAPER_LATENTS = MappingProxyType({"qwen2.5-3b": (64, 0.3), "qwen2.5-7b": (64, 0.5), "llama-3.2-3b": (32, 0.5)})


def recipe_for(preset: str, model: str, changes: Mapping[str, Any]) -> Recipe:
    """Take a preset, fit the paper's latents to the model where its name tells, and apply the caller's changes.

    Raises:
        ValueError: a value is out of its range; the message names it.

    """
    latents = [values for name, values in PAPER_LATENTS.items() if preset == "paper" and name in model.lower()]
    fitted = {"latent_length": latents[0][0], "tau": latents[0][1]} if latents else {}
    return replace(PRESETS[preset], **{**fitted, **changes})


def option_names() -> list[tuple[str, type, str]]:
    """Name, type and meaning of every value, in order."""
    kinds = {"int": int, "float": float, "str": str, "bool": bool}
    return [
        (one.name, kinds[getattr(one.type, "__name__", str(one.type))], one.metadata["about"]) for one in fields(Recipe)
    ]
