"""The base model of the learning bench: one small model for the four families, with room to rise in each.

Made by the demo model's recipe on the lessons of a teacher of its own. Leaves out what is learned from it (the bench).
"""
