"""The HTTP server. Read `serve` (the process), `factory` (its layers and routes), `server` (its parts), then the rooms.

`http` knows no route; `door` lets callers in; `answering` makes answers for `openai`; `grading`, `admin` and
`console` are faces that borrow nothing from one another; `policy` keeps what is served up to date.
"""
