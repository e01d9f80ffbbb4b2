"""What `lepo doctor` looks at, one file per kind: each check gives findings, and each finding says what to do.

Works when nothing runs. Read `finding`, then `examination` (which checks there are, in which order). Leaves out
repairing anything.
"""
