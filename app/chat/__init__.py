"""How a model reads a conversation and says that it calls a tool: by its chat template, found out by rendering.

`calls` (calls in a text), `dialects` (the ways models write them), `tools` (what a request offers), `takes` (what a
template shows), `template` (messages to token ids), `recorded` (requests that are shown again). Leaves out HTTP; the
server and the worker may both use it.
"""
