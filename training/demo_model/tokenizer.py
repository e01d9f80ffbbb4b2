"""The demo model's tokenizer: bytes, plus one token for each number and word its task uses.

A byte-level BPE without merges: a piece of text that is in the vocabulary is one token, any other piece is its bytes,
so every string can be encoded and comes back unchanged. Leaves out a general vocabulary: this model only does sums.
"""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD, TURN = "<|bos|>", "<|im_end|>", "<|pad|>", "<|im_start|>"
ANSWER = "Answer: "

WORDS = (
    *("system", "user", "assistant", "tool", "Work ", "out ", "step ", "by ", "step", ANSWER),
    *("You ", "are ", "a ", "helpful ", "careful ", "calculator", "Please ", "work ", "What ", "is ", "the ", "answer"),
)

# An operation with its digit, a number, a word with its colon (each with the space after it), or one character.
PIECES = r"[-+] [0-9](?![0-9]) ?|[0-9]{1,2} ?|[A-Za-z]+:? ?|[\s\S]"

# ChatML. A content is a string or OpenAI's list of text parts. Any role is accepted, in any order.
CHAT_TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string %}
{{- message['content'] }}
{%- elif message['content'] %}
{%- for part in message['content'] %}{{- part['text'] or '' }}{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""


def build_tokenizer(max_length: int, words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """Build the tokenizer; `max_length` is the model's longest sequence in tokens, `words` are one token each."""
    numbers = [str(number) for number in range(10, 100)] + [f"{number} " for number in range(100)]
    operations = [f"{sign} {digit} " for sign in "+-" for digit in range(10)]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    written = dict.fromkeys([*letters, *(as_bytes(piece) for piece in (*numbers, *operations, *words))])
    vocabulary = {piece: index for index, piece in enumerate((BOS, EOS, PAD, TURN, *written))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[TURN],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def as_bytes(piece: str) -> str:
    """Return the piece in the byte-level alphabet, where a space is written as one visible letter."""
    [(encoded, _)] = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(piece)
    return encoded
