"""Held-out log-loss of every estimator, tuned and as it comes, beside baselines and peers.

    python -m benchmarks.held_out

The later half of the votes in five blocks of time (`arena.prediction.held_out`); tuned means by the
evidence of the earlier half alone. Peers, where installed (pip install openskill choix): the
`trueskill` package and openskill predict vote by vote; choix's Bradley-Terry predicts each block
from the strict votes before it. openskill and choix give no usable probability of a tie, so they
get the past share of ties, as Elo does.

The last two tables tell what a row that sums several raters is best taken for by `trueskill`: each
rater's vote, or one vote by the majority. Each rater of later rows is predicted.

Data: ../shared/data. GenAI-Arena, GenAI-Bench (TIGER-AI-Lab, Apache-2.0), TIFA160
(Apache-2.0), international football (CC0).
"""

import csv
import importlib
import importlib.metadata
import json
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import polars as pl
from scipy.special import expit, ndtr

from arena.prediction.calibration import score
from arena.prediction.held_out import FIRST, block_edges, constant, constant_online, evaluate
from arena.prediction.tune import tune
from arena.ratings.comparisons import A_WINS, B_WINS, TIE, Comparisons
from arena.ratings.gaussian import draw_margin
from arena.ratings.table import estimator
from arena.votes.read import read_votes

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"


def football() -> Comparisons:
    """Every international match in time order; side a is the home team."""
    with (DATA / "football" / "results.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["home_score"].isdigit()]
    names = sorted({row[side] for row in rows for side in ("home_team", "away_team")})
    place = {name: k for k, name in enumerate(names)}
    a, b = (np.array([place[row[f"{s}_team"]] for row in rows], np.int32) for s in ("home", "away"))
    goals = np.array([int(row["home_score"]) - int(row["away_score"]) for row in rows])
    outcome = np.where(goals > 0, A_WINS, np.where(goals < 0, B_WINS, TIE)).astype(np.int8)
    return Comparisons(names, a, b, outcome)


def genai_arena() -> Comparisons:
    """Every GenAI-Arena vote in time order."""
    return Comparisons.of(
        read_votes([DATA / "genai_arena" / "clean_battle_20240220.json"]).votes
    )


def with_past_ties(votes: Comparisons, start: int, win: np.ndarray) -> np.ndarray:
    """Return (n, 3) from P(a wins, ties aside) (n,) and the share of ties before each vote."""
    tie = constant_online(votes, start)[:, TIE]
    return np.stack([(1 - tie) * win, (1 - tie) * (1 - win), tie], axis=1)


def trueskill_package(votes: Comparisons, start: int) -> np.ndarray:
    """The `trueskill` package as it comes, before each vote."""
    package = importlib.import_module("trueskill")
    env = package.TrueSkill(backend="scipy")
    rating = [env.create_rating() for _ in votes.models]
    margin = draw_margin(env.draw_probability, env.beta)
    found = np.empty((len(votes), 3))
    for k, (i, j, won) in enumerate(zip(votes.a, votes.b, votes.outcome, strict=True)):
        x, y = rating[i], rating[j]
        c = np.sqrt(2 * (env.beta**2 + env.tau**2) + x.sigma**2 + y.sigma**2)
        p, q = ndtr((x.mu - y.mu - margin) / c), ndtr((y.mu - x.mu - margin) / c)
        found[k] = p, q, 1 - p - q
        if won == B_WINS:
            rating[j], rating[i] = package.rate_1vs1(y, x, env=env)
        else:
            rating[i], rating[j] = package.rate_1vs1(x, y, drawn=won == TIE, env=env)
    return found[start:]


def openskill_package(votes: Comparisons, start: int) -> np.ndarray:
    """Openskill's Plackett-Luce as it comes, before each vote."""
    model = importlib.import_module("openskill.models").PlackettLuce()
    rating = [model.rating() for _ in votes.models]
    win = np.empty(len(votes))
    for k, (i, j, won) in enumerate(zip(votes.a, votes.b, votes.outcome, strict=True)):
        teams = [[rating[i]], [rating[j]]]
        win[k] = model.predict_win(teams)[0]
        ranks = [0, 0] if won == TIE else [int(won == B_WINS), int(won == A_WINS)]
        (rating[i],), (rating[j],) = model.rate(teams, ranks=ranks)
    return with_past_ties(votes, start, win[start:])


def choix_package(votes: Comparisons, start: int) -> np.ndarray:
    """Choix's Bradley-Terry (alpha 0.01) of the strict votes before each block."""
    choix = importlib.import_module("choix")
    found = []
    edges = block_edges(votes)
    for i, j in pairwise(edges):
        past, future = votes.part(0, i), votes.part(i, j)
        strict = past.only(past.outcome != TIE)
        won = np.where(strict.outcome == A_WINS, strict.a, strict.b)
        lost = np.where(strict.outcome == A_WINS, strict.b, strict.a)
        data = list(zip(won.tolist(), lost.tolist(), strict=True))
        theta = choix.ilsr_pairwise(len(votes.models), data, alpha=0.01, max_iter=1000)
        win = expit(theta[future.a] - theta[future.b])
        tie = constant(past, future)[:, TIE]
        found.append(np.stack([(1 - tie) * win, (1 - tie) * (1 - win), tie], axis=1))
    return np.concatenate(found)


PEERS: dict[str, tuple[str, Callable[[Comparisons, int], np.ndarray]]] = {
    "trueskill": ("online", trueskill_package),
    "openskill": ("online", openskill_package),
    "choix": ("frozen", choix_package),
}


def table(name: str, votes: Comparisons) -> None:
    """Print one table in markdown, the best first."""
    votes = votes.between_models()
    start = block_edges(votes)[0]
    past = votes.part(0, round(len(votes) * FIRST))
    ours = {
        "trueskill, default": estimator("trueskill"),
        "trueskill, draws 0.10": estimator("trueskill", draw_probability=0.10),
        "trueskill, tuned": tune(past).estimator,
        "thurstone, default": estimator("thurstone"),
        "thurstone, tuned": tune(past, "thurstone").estimator,
        "bradley_terry": estimator("bradley_terry"),
    }
    found = evaluate(votes, ours)
    columns = ("method", "prediction", "log_loss", "brier", "accuracy", "calibration_error")
    rows = list(found.overall().select(columns).iter_rows())
    for package, (kind, predict) in PEERS.items():
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            print(f"{package} is not installed and left out")
            continue
        s = score(predict(votes, start), found.outcome)
        said = (s.log_loss, s.brier, s.accuracy, s.calibration_error)
        rows.append((f"{package} {version} (peer)", kind, *said))
    print(f"\n{name}: {len(found.outcome):,} later votes of {len(votes):,}\n")
    print("| method | predicts | log-loss | Brier | accuracy | calibration error |")
    print("|---|---|---|---|---|---|")
    for method, kind, loss, brier, accuracy, error in sorted(rows, key=lambda row: row[2]):
        print(f"| {method} | {kind} | {loss:.4f} | {brier:.4f} | {accuracy:.1%} | {error:.3f} |")


def genai_bench() -> list[tuple[str, str, str, Counter[str]]]:
    """Return (prompt, model, model, what its three raters say) of every pair of images."""
    prompts = json.loads((DATA / "genai_bench" / "genai_image.json").read_text()).values()
    return [
        (prompt["id"], a, b, said(zip(prompt["models"][a], prompt["models"][b], strict=True)))
        for prompt in prompts
        for a, b in combinations(sorted(prompt["models"]), 2)
    ]


def tifa160() -> list[tuple[str, str, str, Counter[str]]]:
    """Return (prompt, model, model, what the raters of both images say) of every pair."""
    points: dict[tuple[str, str], dict[str, int]] = {}
    with (DATA / "tifa160" / "tifa160-likert-anns.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            image = points.setdefault((row["item_id"], row["t2i_model"]), {})
            image[row["worker_id"]] = int(row["answer"])
    return [
        (prompt, a, b, said((one[rater], points[prompt, b][rater]) for rater in one if rater in
         points[prompt, b]))
        for (prompt, a), one in points.items()
        for (same, b) in points
        if same == prompt and a < b
    ]  # fmt: skip


def said(pairs: Iterable[tuple[int, int]]) -> Counter[str]:
    """Count the raters who gave more points to a, to b, or as many."""
    return Counter("a" if x > y else "b" if x < y else "tie" for x, y in pairs)


def most(n: Counter[str]) -> str:
    """Return the outcome that most raters said, a tie where a and b have as many."""
    tied = n["a"] == n["b"] or n["tie"] > max(n["a"], n["b"])
    return "tie" if tied else max("ab", key=n.__getitem__)


def raters(name: str, pairs: list[tuple[str, str, str, Counter[str]]], orders: int = 5) -> None:
    """Print what a row that sums several raters is best taken for, over orders of the rows."""
    rows = [
        (a, b, most(n), n["a"], n["b"], n["tie"]) for _, a, b, n in pairs if n.total()
    ]
    names = ["model_a", "model_b", "outcome", "votes_a", "votes_b", "votes_tie"]
    votes = pl.DataFrame(rows, names, orient="row")
    made = {counts: estimator("trueskill", counts=counts) for counts in ("each", "majority")}
    found = pl.concat(
        evaluate(votes.sample(fraction=1.0, shuffle=True, seed=seed), made).overall()
        for seed in range(orders)
    )
    means = found.group_by("method", "prediction").agg(pl.col("log_loss", "brier").mean())
    total = votes.select(pl.sum_horizontal(names[3:]).sum()).item()
    print(f"\n{name}: {total:,} votes in {votes.height:,} rows, mean of {orders} orders\n")
    print("| a row is | predicts | log-loss | Brier |")
    print("|---|---|---|---|")
    for method, kind, loss, brier in means.sort("log_loss").iter_rows():
        print(f"| {method} | {kind} | {loss:.4f} | {brier:.4f} |")


def main() -> None:
    """Print all tables."""
    table("GenAI-Arena", genai_arena())
    table("International football", football())
    raters("GenAI-Bench", genai_bench())
    raters("TIFA160", tifa160())


if __name__ == "__main__":
    main()
