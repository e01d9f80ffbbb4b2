"""The console for people, at `/`: is it improving, why, and what to do now.

Server-rendered: a page reads the store within what its reader's key may see, templates hold no logic beyond loops and
conditions, pictures are drawn by `app.api.console.drawing`. What changes something is asked of the API itself
(`acting`), so that a click and a call do the same. Leaves out who is let in (`app.api.door`).
"""
