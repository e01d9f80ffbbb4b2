"""Shape of the tiny random models that the rooms make for themselves."""

from typing import Any

VOCABULARY = 320
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "initializer_range": 0.3,  # sharp logits: what is drawn then depends on the context
    "latent_placement": "answer",  # as if they had been trained so: what these tests ask is compared with `sample`
}
