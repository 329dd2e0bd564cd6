"""Rate the models of an arena's own csv, in six lines.

    python -m examples.rate_votes

`examples/data/votes.csv` names its columns and outcomes in its own words, as most do. Its votes are
simulated: aurora-3 is the best of five models and sketchy the worst.
"""

from pathlib import Path

import arena

VOTES = Path(__file__).parent / "data" / "votes.csv"
COLUMNS = {"model_a": "left_model", "outcome": "choice", "created_at": "when"}
OUTCOMES = {"left": "a", "right": "b", "both": "tie", "neither": "tie"}

if __name__ == "__main__":
    votes = arena.read_votes(VOTES, columns=COLUMNS, outcomes=OUTCOMES).votes
    ratings = arena.TrueSkill().fit(votes)
    print(ratings)
    print(f"aurora-3 beats dune-xl: {ratings.win_probability('aurora-3', 'dune-xl'):.0%}")
    gaps = arena.pairwise_gaps(votes, ratings)
    print(gaps.sort("gap").select("winner", "loser", "gap", "probability").tail(3))
