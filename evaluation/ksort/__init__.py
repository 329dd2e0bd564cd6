"""K-Sort Eval (arXiv 2602.09411): a new model's place in an arena, one judged instance at a time.

`rating` is the algorithm, `dataset` reads its data set and `build` makes one from votes; who ranks
the images is in `judges`.
"""
