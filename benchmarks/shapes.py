"""Models to measure: Qwen2 with random weights in four sizes, and a tokenizer with as many words as the vocabulary.

Speed does not depend on what the weights say, so none are downloaded. Leaves out quality, which `worker` measures.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from training.models.policy import Policy

SPECIALS = ("<|endoftext|>", "<|turn|>")  # the first is the name that Qwen2's tokenizer class expects
CHAT_TEMPLATE = "{% for message in messages %}<|turn|>{{ message['content'] }}{% endfor %}<|turn|>"


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a Qwen2 with tied embeddings.

    Example: `SHAPES["0.5b"]` has the sizes of Qwen2.5-0.5B.
    """

    name: str  # how the command line calls it
    hidden: int  # D
    layers: int  # decoder layers
    heads: int  # query heads
    kv_heads: int  # key-value heads
    intermediate: int  # width of the feed-forward layer
    vocabulary: int  # V
    positions: int = 4096  # longest sequence

    @property
    def head_size(self) -> int:
        """Numbers per head."""
        return self.hidden // self.heads

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        """Bytes that keys and values of one position take, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_size * element_bytes


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("micro", hidden=64, layers=2, heads=4, kv_heads=2, intermediate=128, vocabulary=512),  # for tests
        Shape("tiny", hidden=256, layers=4, heads=4, kv_heads=2, intermediate=1024, vocabulary=8192),
        Shape("50m", hidden=512, layers=8, heads=8, kv_heads=4, intermediate=2048, vocabulary=32_768),
        Shape("0.5b", hidden=896, layers=24, heads=14, kv_heads=2, intermediate=4864, vocabulary=151_936),
        Shape("3b", hidden=2048, layers=36, heads=16, kv_heads=2, intermediate=11_008, vocabulary=151_936),
    )
}


def build_policy(shape: Shape, *, seed: int, version: int, dtype: "torch.dtype", device: str) -> "Policy":
    """Make the model on its device; the same seed and device give the same weights."""
    from training.models.policy import Policy

    return Policy(build_model(shape, seed, dtype, device), build_tokenizer(shape), version, frozenset({0}))


def build_model(shape: Shape, seed: int, dtype: "torch.dtype", device: str) -> "PreTrainedModel":
    """Random weights from transformers' own initialisation, in eval mode."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,  # the tokenizer names the end; so `generate` has none to look for
        pad_token_id=0,
    )
    kind = torch.device(device).type
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if kind == "cuda" else []), torch.device(device):
        torch.manual_seed(seed)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    model.requires_grad_(requires_grad=False)
    model.train(mode=False)
    return model


def build_tokenizer(shape: Shape) -> "PreTrainedTokenizerFast":
    """Byte-level tokenizer without merges: two specials, 256 bytes, then words up to the vocabulary's size."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = (f"w{number}\u0120" for number in range(shape.vocabulary))  # U+0120 is a space in the byte alphabet
    known = [*SPECIALS, *letters]
    pieces = {piece: index for index, piece in enumerate(known)}
    pieces.update(zip(words, range(len(known), shape.vocabulary), strict=False))
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"w[0-9]+ |[\s\S]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=SPECIALS[0],
        pad_token=SPECIALS[0],
        additional_special_tokens=[SPECIALS[1]],
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def save_model(shape: Shape, seed: int, directory: Path) -> None:
    """Write model and tokenizer in the Hugging Face layout, float32."""
    import torch

    build_model(shape, seed, torch.float32, "cpu").save_pretrained(directory)
    build_tokenizer(shape).save_pretrained(directory)
