"""The model that comes with the product: its tokenizer, its teacher, the recipe that made it, and its weights.

A stock architecture in the Hugging Face layout, small enough to learn on two cores.
"""
