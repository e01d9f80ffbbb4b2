"""Where latent steps sit: what is executed before and after them that is neither the prompt nor the answer.

    answer     the paper's (LEPO, arXiv:2604.17892): they are the first positions of the answer
    thinking   inside the model's own thinking part, which is opened before them and closed after them
    preamble   after a lead-in and before a lead-out of the service's own, so that the answer begins at its beginning

A model that never met a mixture goes on with the sentence that its latent steps began, and whoever reads the answer
misses the first words. What is executed around the steps is given, not drawn: it is recorded with the rollout, and
nobody learns from it. Leaves out which placement a service takes (a setting) and what each is worth (docs/learning.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from transformers import PreTrainedTokenizerBase
from transformers.configuration_utils import PreTrainedConfig

PlacementName = Literal["answer", "thinking", "preamble"]

DECLARED: Final = "latent_placement"  # field of a model's config.json that says where its latent steps were trained
_THINKING: Final = (  # how the families open and close their thinking part
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
_SAID: Final = "."  # stands for what the assistant said while the turn of a template is looked for
_NO_TURN: Final = "\n\n"  # lead-out of a model without a chat template


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the latent steps of an answer sit.

    Example: `placement_of("preamble", tokenizer)` closes the assistant's turn after them and opens a new one.
    """

    name: PlacementName = "answer"
    lead_in_ids: tuple[int, ...] = ()  # executed after the prompt, before the first latent step
    lead_out_ids: tuple[int, ...] = ()  # executed after the last latent step, before the first token

    @property
    def size(self) -> int:
        """Tokens executed around the latent steps, at most."""
        return len(self.lead_in_ids) + len(self.lead_out_ids)

    def before(self, prompt_ids: Sequence[int]) -> tuple[int, ...]:
        """Give the lead-in behind a prompt: none where the prompt ends with it already."""
        own = self.lead_in_ids
        return () if own and tuple(prompt_ids[-len(own) :]) == own else own


ANSWER: Final = Placement()


def placement_of(
    name: PlacementName, tokenizer: PreTrainedTokenizerBase, lead_in: str = "", lead_out: str = ""
) -> Placement:
    """Place latent steps for one model.

    Args:
        name: which placement.
        tokenizer: of the model.
        lead_in: text before the steps of a preamble.
        lead_out: text after them; empty: the end of the assistant's turn and the beginning of a new one, as the
            model's chat template writes them (an empty line where it has none).

    Raises:
        ValueError: "thinking" for a model whose chat template has no thinking part.

    """
    if name == "answer":
        return ANSWER
    if name == "preamble":
        return Placement(name, _ids(tokenizer, lead_in), _ids(tokenizer, lead_out or new_turn(tokenizer)))
    marks = thinking_marks(tokenizer)
    if marks is None:
        raise ValueError(
            "this model's chat template has no thinking part to put latent steps into: place them by 'preamble', or by "
            "'answer'"
        )
    return Placement(name, _ids(tokenizer, f"{marks[0]}\n"), _ids(tokenizer, f"\n{marks[1]}\n\n"))


def own_placement(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> PlacementName:
    """Choose for a model that nobody chose for: where it was trained, else where it leaves a whole answer.

    Args:
        config: of the model; its field `latent_placement` says where it was trained with latent steps.
        tokenizer: of the model.

    """
    if (declared := declared_placement(config)) is not None:
        return declared
    if not tokenizer.chat_template:
        return "answer"
    return "preamble" if thinking_marks(tokenizer) is None else "thinking"


def declared_placement(config: PreTrainedConfig) -> PlacementName | None:
    """Read where a model was trained with latent steps; None where its configuration does not say."""
    declared = getattr(config, DECLARED, None)
    return next((name for name in get_args(PlacementName) if name == declared), None)


def declare_placement(config: PreTrainedConfig, name: PlacementName) -> None:
    """Write into a model's configuration where it is trained with latent steps."""
    setattr(config, DECLARED, name)


def thinking_marks(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str] | None:
    """Find how the model's chat template opens and closes a thinking part; None where it has none."""
    template = str(tokenizer.chat_template or "")
    vocabulary = tokenizer.get_vocab()
    for opening, closing in _THINKING:
        if closing in template and opening in vocabulary and closing in vocabulary:
            return opening, closing
    return None


def new_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    """Write what stands between an assistant's words and the next turn of the assistant's, by the chat template."""
    if not tokenizer.chat_template:
        return _NO_TURN
    asked = [{"role": "user", "content": _SAID}]
    answered = [*asked, {"role": "assistant", "content": _SAID}]
    opened = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    closed = str(tokenizer.apply_chat_template(answered, tokenize=False))
    asked_only = str(tokenizer.apply_chat_template(asked, tokenize=False))
    end = closed.rpartition(_SAID)[2]
    return (end + opened.removeprefix(asked_only)) or _NO_TURN


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False)) if text else ()
