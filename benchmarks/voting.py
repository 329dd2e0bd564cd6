"""How many votes a well-chosen question saves: votes until a planted order is known.

    python -m benchmarks.voting [--seeds 20] [--out docs/images/voting.png]

Arenas of 6, 14 and 30 models: capabilities drawn from TrueSkill's prior, N(25, (25/3)^2), votes by
its own model with the authors' beta and 10% draws between equals. The same arena and the same noise
are voted about twice: pairs by the page's rule (`voting.choice.information`, the pair of models
whose vote tells most) and pairs at random. Ratings are TrueSkill's (the authors' beta, tau and
draw probability) after every vote.

The order is known from the first vote on after which Kendall's tau between the ratings and the
planted capabilities stays at 0.9 or above for 5 votes for each model. Intervals are 95%, by
resampling seeds; the saving is paired.
"""

import argparse
import time
from itertools import combinations
from pathlib import Path

import numpy as np

from arena.ratings.gaussian import draw_margin
from arena.ratings.leaderboards import BETA, DRAW_PROBABILITY, MU, SIGMA, TAU
from arena.ratings.trueskill import update
from voting.choice import information

SIZES = (6, 14, 30)
KNOWN = 0.9
EPSILON = draw_margin(DRAW_PROBABILITY, BETA)
MOST = 150  # votes for each model


def taus(models: int, seed: int, by_information: bool, most: int) -> np.ndarray:
    """Return Kendall's tau after every vote, (most,)."""
    random = np.random.default_rng([seed, models])
    truth = random.normal(MU, SIGMA, models)
    noise = random.normal(0.0, np.sqrt(2.0) * BETA, most)
    drawn = random.random((most, 2))
    mu, variance = np.full(models, MU), np.full(models, SIGMA**2)
    pairs = np.array(list(combinations(range(models), 2)))
    i, j = pairs.T
    order = np.sign(truth[i] - truth[j])
    worth = information(np.zeros(len(pairs)), np.full(len(pairs), 2 * SIGMA**2), BETA, EPSILON)
    found = np.empty(most)
    for vote in range(most):
        if by_information:
            best = np.flatnonzero(worth >= worth.max() * (1.0 - 1e-9))
            k = best[int(drawn[vote, 0] * len(best))]
        else:
            k = int(drawn[vote, 0] * len(pairs))
        a, b = pairs[k] if drawn[vote, 1] < 0.5 else pairs[k][::-1]
        d = truth[a] - truth[b] + noise[vote]
        if d < -EPSILON:
            a, b = b, a
        variance[[a, b]] += TAU**2
        mu[a], variance[a], mu[b], variance[b] = update(
            mu[a], variance[a], mu[b], variance[b], BETA**2, EPSILON, abs(d) <= EPSILON
        )
        if by_information:
            new = np.flatnonzero((i == a) | (j == a) | (i == b) | (j == b))
            mean, spread = mu[i[new]] - mu[j[new]], variance[i[new]] + variance[j[new]]
            worth[new] = information(mean, spread, BETA, EPSILON)
        found[vote] = np.mean(order * np.sign(mu[i] - mu[j]))
    return found


def known_after(tau: np.ndarray, models: int) -> float:
    """Return the votes until the order is known, infinity where it never was."""
    below = np.flatnonzero(tau < KNOWN)
    starts = np.r_[0, below + 1]
    ends = np.r_[below, len(tau)]
    good = starts[ends - starts >= 5 * models]
    return float(good[0] + 1) if len(good) else np.inf


def interval(values: np.ndarray, resamples: int = 10_000) -> tuple[float, float, float]:
    """Return the median and its 95% interval by resampling."""
    random = np.random.default_rng(0)
    drawn = np.median(values[random.integers(0, len(values), (resamples, len(values)))], axis=1)
    return (float(np.median(values)), *np.quantile(drawn, (0.025, 0.975), method="nearest"))


def main() -> None:
    """Print the table and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("docs/images/voting.png"))
    told = parser.parse_args()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    panels = figure.subplots(1, len(SIZES), sharey=True)
    print("| models | at random | by information | share of the votes needed |")
    print("|---|---|---|---|")
    for models, panel in zip(SIZES, panels, strict=True):
        start = time.perf_counter()
        most = MOST * models
        counts = {}
        for rule, by_information in (("at random", False), ("by information", True)):
            curves = np.array([taus(models, s, by_information, most) for s in range(told.seeds)])
            counts[rule] = np.array([known_after(curve, models) for curve in curves])
            votes = np.arange(1, most + 1)
            low, middle, high = np.quantile(curves, (0.25, 0.5, 0.75), axis=0)
            (line,) = panel.plot(votes, middle, label=rule)
            panel.fill_between(votes, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
        cells = [interval(counts[rule]) for rule in counts]
        shares = interval(counts["by information"] / counts["at random"])
        shown = [f"{m:,.0f} ({a:,.0f} to {b:,.0f})" for m, a, b in cells]
        share = "{:.2f} ({:.2f} to {:.2f})".format(*shares)
        print(f"| {models} | {shown[0]} | {shown[1]} | {share} |", flush=True)
        never = {rule: int(np.isinf(each).sum()) for rule, each in counts.items()}
        print(f"<!-- never within {most:,} votes: {never}; {time.perf_counter() - start:.0f} s -->")
        panel.axhline(KNOWN, color="grey", linewidth=0.8)
        panel.set(title=f"{models} models", xlabel="votes", xlim=(0, 60 * models), ylim=(0, 1))
    panels[0].set_ylabel("Kendall's tau with the planted order")
    panels[0].legend(loc="lower right")
    told.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(told.out, dpi=110)


if __name__ == "__main__":
    main()
