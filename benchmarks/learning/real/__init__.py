"""The method bench on a real language model: cells of one method, one family and one seed, and what they add up to."""
