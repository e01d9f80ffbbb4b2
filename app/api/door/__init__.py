"""Who may come in, and which answers are theirs: keys, grading tokens, scopes. Read `auth` first."""
