"""Generation, scorers, K-Sort Eval and the statistics that compare policies."""
