"""Later votes predicted by every estimator, the baselines and a peer: real people, real matches.

    python -m benchmarks.held_out football
    python -m benchmarks.held_out genai_arena

The second half of the votes in time order, in five blocks (`arena.time_splits`). tuned: beta, tau
and draw probability by the evidence of the votes before the first block. openskill, where it is
installed, goes on from vote to vote as `online` does and predicts by its own win and draw
functions; its defaults are used. Log-loss in nats a vote, of three outcomes.

Data: ../shared/data. football: international results since 1872 (CC0); genai_arena: text-to-image
votes (TIGER-AI-Lab, Apache-2.0).
"""

import argparse
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import polars as pl

from arena.calibration import between_models, log_losses
from arena.leaderboard import held_out_table
from arena.ratings import estimator
from arena.time_splits import FIRST, block_edges, evaluate
from arena.trueskill import TrueSkill
from arena.tune import tune
from arena.votes.comparisons import A_WINS, TIE, Comparisons
from arena.votes.open import read_votes

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"


def football() -> pl.DataFrame:
    """Return every match as a vote between the two teams."""
    results = pl.read_csv(DATA / "football" / "results.csv", null_values="NA")
    home, away = pl.col("home_score"), pl.col("away_score")
    won = pl.when(home > away).then(pl.lit("a")).when(home < away).then(pl.lit("b"))
    return results.sort("date", maintain_order=True).select(
        model_a="home_team", model_b="away_team", outcome=won.otherwise(pl.lit("tie"))
    )


def genai_arena() -> pl.DataFrame:
    """Return the text-to-image votes in time order."""
    votes = read_votes([DATA / "genai_arena" / "clean_battle_20240220.json"]).votes
    image = pl.col("model_a").str.ends_with("_generation")
    return votes.filter(image).sort("created_at", maintain_order=True)


def by_openskill(votes: Comparisons, kind: str) -> np.ndarray:
    """Return (n, 3), openskill's probability of a, b and tie before each vote."""
    from openskill import models

    model = getattr(models, kind)()
    rating = [model.rating() for _ in votes.models]
    said = np.empty((len(votes), 3))
    columns = votes.a.tolist(), votes.b.tolist(), votes.outcome.tolist()
    for k, (i, j, won) in enumerate(zip(*columns, strict=True)):
        teams = [[rating[i]], [rating[j]]]
        tie = min(model.predict_draw(teams), 1.0)
        said[k, :2] = (1.0 - tie) * np.array(model.predict_win(teams))
        said[k, TIE] = tie
        ranks = [1, 1] if won == TIE else [1, 2] if won == A_WINS else [2, 1]
        (rating[i],), (rating[j],) = model.rate(teams, ranks=ranks)
    return said


def main() -> None:
    """Print the table of one data set."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", choices=["football", "genai_arena"])
    votes = between_models(
        {"football": football, "genai_arena": genai_arena}[parser.parse_args().data]()
    )
    past = votes.part(0, round(len(votes) * FIRST))
    compared = {
        "trueskill, default": TrueSkill(),
        "trueskill, draws auto": TrueSkill(draw_probability="auto"),
        "trueskill, tuned": tune(past).estimator,
        "thurstone, default": estimator("thurstone"),
        "thurstone, tuned": tune(past, "thurstone").estimator,
        "bradley_terry": estimator("bradley_terry"),
    }
    print(held_out_table(evaluate(votes, compared)))
    print(f"trueskill tuned: {compared['trueskill, tuned']}")
    if find_spec("openskill") is None:
        print("openskill: not installed (dependency group `benchmarks`)")
        return
    start = block_edges(len(votes))[0]
    for kind in ("PlackettLuce", "ThurstoneMostellerFull"):
        loss = log_losses(by_openskill(votes, kind)[start:], votes.outcome[start:])
        print(f"openskill {kind}, online: log-loss {loss.mean():.4f}")


if __name__ == "__main__":
    main()
