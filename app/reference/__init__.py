"""Pages of reference that are written by the code they are about: commands, metrics, events, routes.

`lepo reference PAGE` prints one; the documentation's build takes them from here, so they are never older than the
release. Leaves out settings, which `lepo settings --markdown` writes.
"""
