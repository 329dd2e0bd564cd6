"""A complete small text-to-image world from real handwriting: `python -m examples.miniature`.

Here: the digits and what is measured on them, the captions, the base model, the arena of
generators, the simulated raters, the K-Sort data set and the world's own scorer. Not here: anything
that learns from the votes; that is what the world is given to.
"""
