"""Models by name: where the weights lie that `LEPO_MODEL` names, what comes in a package, and what a model would need.

Nothing here serves or learns. Finding and fetching are light; looking at a model imports transformers and reads no
weights. May import `training` and `app.decoder`.
"""
