"""The joint gap on real people: how well does one rater's vote tell what the others think?

    python -m benchmarks.joint_gap [--resamples 2000] [--rotate]

Votes: one rater's, every pair of images of a prompt, a tie where the two ratings are equal. Truth:
the mean of the other raters' difference in points. Measure: Pearson correlation of the gap with the
truth over the strict votes, 95% intervals by resampling prompts. Nothing is fitted to the truth.
--rotate repeats it with every other rater in the first one's place, and with several raters' votes.

Data: ../shared/data. GenAI-Bench (TIGER-AI-Lab, Apache-2.0), TIFA160 (Hu et al., Apache-2.0).
"""

import argparse
import csv
import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl

from arena.gap import pairwise_gaps
from arena.joint import JointReport, joint_gaps
from arena.trueskill import TrueSkill

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"


@dataclass(frozen=True)
class Panel:
    """Ratings of several people: points (prompts, models, raters), NaN where one is missing."""

    name: str
    points: np.ndarray
    models: list[str]


def genai_bench() -> Panel:
    """Read GenAI-Bench; two of its ratings are 41 and 33 on a scale of 5, and stay as they are."""
    prompts = json.loads((DATA / "genai_bench" / "genai_image.json").read_text()).values()
    models = sorted(next(iter(prompts))["models"])
    points = [[prompt["models"][model] for model in models] for prompt in prompts]
    return Panel("GenAI-Bench", np.array(points, dtype=float), models)


def tifa160() -> Panel:
    """Read TIFA160; an image's n-th rating in the file is rater n's."""
    with (DATA / "tifa160" / "tifa160-likert-anns.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    models = sorted({row["t2i_model"] for row in rows})
    prompts = sorted({row["item_id"] for row in rows})
    points = np.full((len(prompts), len(models), 5), np.nan)
    seen = np.zeros(points.shape[:2], dtype=int)
    for row in rows:
        at = prompts.index(row["item_id"]), models.index(row["t2i_model"])
        points[(*at, seen[at])] = float(row["answer"])
        seen[at] += 1
    return Panel("TIFA160", points, models)


def votes_of(panel: Panel, raters: tuple[int, ...]) -> pl.DataFrame:
    """Return these raters' votes with `truth`, `points` (a minus b), `borda` and `prompt` (int).

    truth: the mean difference of the raters who are not among them.
    """
    others = [r for r in range(panel.points.shape[2]) if r not in raters]
    truth = np.nanmean(panel.points[:, :, others], axis=2)
    rows = []
    for r in raters:
        y = panel.points[:, :, r]
        wins = np.nansum(np.sign(y[:, :, None] - y[:, None, :]), axis=2)
        for p, (i, j) in (
            (p, pair) for p in range(len(y)) for pair in combinations(range(len(panel.models)), 2)
        ):
            if np.isnan(y[p, i] + y[p, j]):
                continue
            difference = y[p, i] - y[p, j]
            rows.append(
                {
                    "vote_id": f"{r}-{p}-{i}-{j}",
                    "model_a": panel.models[i],
                    "model_b": panel.models[j],
                    "outcome": "tie" if difference == 0 else "a" if difference > 0 else "b",
                    "image_a": f"{p}/{panel.models[i]}",
                    "image_b": f"{p}/{panel.models[j]}",
                    "rater": str(r),
                    "prompt": p,
                    "truth": truth[p, i] - truth[p, j],
                    "points": difference,
                    "borda": wins[p, i] - wins[p, j],
                }
            )
    return pl.DataFrame(rows)


def measure(
    panel: Panel, raters: tuple[int, ...]
) -> tuple[np.ndarray, dict[str, np.ndarray], np.ndarray, JointReport]:
    """Return (truth, gaps by name, prompt) of the strict votes, winner minus loser, and the report.

    With several raters in, the strict votes of the first of them are measured.
    """
    votes = votes_of(panel, raters)
    ratings = TrueSkill(draw_probability="auto").fit(votes)
    joint, report = joint_gaps(votes, ratings, signed=True)
    sign = votes["outcome"].replace_strict({"a": 1.0, "b": -1.0, "tie": 0.0}).to_numpy()
    strict = (sign != 0) & (votes["rater"] == str(raters[0])).to_numpy()
    gaps = {
        "pairwise": pairwise_gaps(votes, ratings)["gap"].to_numpy(),
        "pairwise, predictive": pairwise_gaps(votes, ratings, "predictive")["gap"].to_numpy(),
        "Borda": sign * votes["borda"].to_numpy(),
        "joint": joint["gap"].to_numpy(),
        "points (not votes)": sign * votes["points"].to_numpy(),
    }
    truth = sign * votes["truth"].to_numpy()
    strict &= ~np.isnan(truth)
    return (
        truth[strict],
        {name: gap[strict] for name, gap in gaps.items()},
        votes["prompt"].to_numpy()[strict],
        report,
    )


def correlations(
    truth: np.ndarray, gaps: dict[str, np.ndarray], prompt: np.ndarray, resamples: int
) -> dict[str, np.ndarray]:
    """Return each gap's correlation, first of all votes, then of each resample of the prompts."""
    rng = np.random.default_rng(0)
    code = np.unique(prompt, return_inverse=True)[1]
    prompts = code.max() + 1
    weights = [np.ones(len(code))]
    weights += [
        np.bincount(rng.integers(0, prompts, prompts), minlength=prompts)[code]
        for _ in range(resamples)
    ]
    return {name: np.array([pearson(gap, truth, w) for w in weights]) for name, gap in gaps.items()}


def pearson(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    """Return the weighted correlation."""
    x = x - np.average(x, weights=weight)
    y = y - np.average(y, weights=weight)
    return float((weight * x) @ y / np.sqrt((weight * x) @ x * ((weight * y) @ y)))


def show(panel: Panel, raters: tuple[int, ...], resamples: int) -> None:
    """Print one table."""
    truth, gaps, prompt, report = measure(panel, raters)
    found = correlations(truth, gaps, prompt, resamples)
    s = report.settings
    names = ", ".join(str(r + 1) for r in raters)
    print(f"\n{panel.name}, votes of rater {names}: {len(truth):,} strict")
    print(
        f"  rho {s.rho:.3f}  taste {s.taste:.3f}  slip {s.slip:.4f}  sweeps {report.sweeps}"
        f"  {'converged' if report.converged else f'NOT converged ({report.change:.2g})'}"
    )
    for name, r in found.items():
        low, high = np.quantile(r[1:], [0.025, 0.975])
        better = np.quantile(found["joint"][1:] - r[1:], [0.025, 0.975])
        versus = f"   joint better by {better[0]:+.3f} to {better[1]:+.3f}"
        print(
            f"  {name:22s} {r[0]:.3f}  [{low:.3f}, {high:.3f}]{versus if name != 'joint' else ''}"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--rotate", action="store_true", help="every rater, and several together")
    arguments = parser.parse_args()
    for panel in (genai_bench(), tifa160()):
        show(panel, (0,), arguments.resamples)
        if arguments.rotate:
            raters = range(panel.points.shape[2])
            for r in raters[1:]:
                show(panel, (r,), arguments.resamples)
            for size in range(2, len(raters)):
                show(panel, tuple(raters[:size]), arguments.resamples)
                show(panel, tuple(raters[-size:]), arguments.resamples)


if __name__ == "__main__":
    main()
