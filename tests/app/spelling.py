"""A tokenizer as SentencePiece models have it: spaces belong to words, rare characters are spelled in bytes."""

from tokenizers import Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = ["▁", "▁the", "▁cat", "s", "▁sat", "!", "a", "A", "▁a", "t", "h", "e", "c", "▁▁"]
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = len(SPECIAL) + len(WORDS)  # id of byte 0
TEMPLATE = (
    "{%- for message in messages %}{{ message['role'] + ': ' + message['content'] }}"
    "{{- '\\n' if not loop.last or add_generation_prompt }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ 'assistant:' }}{%- endif %}"
)


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Build one that puts `<s>` before a text and strips its first space, as Llama 2's does."""
    pieces = [*((piece, -1.0) for piece in SPECIAL), *((piece, -2.0) for piece in WORDS)]
    pieces += [(f"<0x{byte:02X}>", -10.0) for byte in range(256)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<unk>",
        chat_template=TEMPLATE,
    )
