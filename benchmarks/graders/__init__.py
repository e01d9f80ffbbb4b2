"""Our graders held against scorers that no one here wrote: those of reasoning-gym, on its own problems."""
