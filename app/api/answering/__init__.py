"""From a checked request to committed answers, whichever face of the API asked.

In the order they are used: `generation` (the fields), `prompts`, `sessions` (the turns before), `checks`, `ask` (the
seam), `answers` (the request under way), `record` (its rows). Beside them `trial_routing` and `shadow` for policies on
trial, and `token_names` for words.
"""
