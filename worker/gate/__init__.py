"""The gate: whether a candidate may serve, by held-out questions asked of it and of its forebears.

Read `evaluation_set` (what is asked), `evaluation` (asking and grading), `look` (how many, against whom, and the
decision), `comparison` (the look at one job's candidate). Leaves out the statistics (`training.statistics.gate`,
`training.statistics.levels`) and what a decision leads to (`worker.publish`).
"""
