"""Does the arena's gap help? The project's own study: policies x seeds x worlds, and its report.

A world is an arena of images whose quality is known, on which raters are simulated; so every gap
can be held against the truth, and an oracle gap exists. Policies are trained by `training` and
drawn by `evaluation`, as any user's; here is only what is run, what of it is kept
(docs/study/results.parquet) and what that says (docs/study.md).
"""
