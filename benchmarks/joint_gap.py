"""The joint gap on real people: how well does one rater's vote tell what the others think?

    python -m benchmarks.joint_gap [--resamples 2000] [--rotate] [--images]

Votes: one rater's, every pair of images of a prompt, a tie where the two ratings are equal. Truth:
the mean of the other raters' difference in points. Measure: Pearson correlation of the gap with the
truth over the strict votes, 95% intervals by resampling prompts. Nothing is fitted to the truth.
--rotate repeats it with every other rater in the first one's place, and with several raters' votes.
--images asks what else images tell: votes simulated from the mean opinion scores of AGIQA-3K, as
the votes an image become more; and ImageReward's rankings of four to nine images without model
names, whose gaps are to follow the ranks.

Data: ../shared/data. GenAI-Bench (TIGER-AI-Lab, Apache-2.0), TIFA160 (Hu et al., Apache-2.0),
AGIQA-3K (MIT), ImageReward (Apache-2.0).
"""

import argparse
import csv
import json
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl

from arena.gaps.joint import JointReport, joint_gaps
from arena.gaps.pairwise import pairwise_gaps
from arena.ratings.trueskill import TrueSkill

DATA = Path(__file__).parents[1] / ".." / "shared" / "data"


@dataclass(frozen=True)
class Panel:
    """Ratings of several people: points (prompts, models, raters), NaN where one is missing."""

    name: str
    points: np.ndarray
    models: list[str]


def genai_bench() -> Panel:
    """Read GenAI-Bench; two of its ratings are 41 and 33 on a scale of 5, and stay as they are.

    As truth they weigh like a thousand others: `clipped` shows what is left without them.
    """
    prompts = json.loads((DATA / "genai_bench" / "genai_image.json").read_text()).values()
    models = sorted(next(iter(prompts))["models"])
    points = [[prompt["models"][model] for model in models] for prompt in prompts]
    return Panel("GenAI-Bench", np.array(points, dtype=float), models)


def clipped(panel: Panel) -> Panel:
    """Return the panel with its points held to the scale, 1 to 5."""
    return Panel(f"{panel.name} held to 1-5", np.clip(panel.points, 1.0, 5.0), panel.models)


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
    known = np.sum(~np.isnan(panel.points[:, :, others]), axis=2)
    total = np.nansum(panel.points[:, :, others], axis=2)
    truth = np.where(known > 0, total / np.maximum(known, 1), np.nan)
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


# AGIQA-3K's scores of one model's images vary by 0.6 within a prompt; a vote's noise is as large.
NOISE = 0.6
# Closer than this two images tie.
MARGIN = 0.25


def agiqa_votes(per_image: float, seed: int) -> pl.DataFrame:
    """Simulate votes between images of a prompt from AGIQA-3K's mean quality, with `truth`.

    Every vote is a new rater's: the difference in score plus N(0, 2 NOISE^2). per_image: votes that
    an image takes part in, on average; which images meet is random.
    """
    rng = np.random.default_rng(seed)
    with (DATA / "agiqa3k" / "data.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    name = np.array([row["name"] for row in rows])
    model = np.array([image.rsplit("_", 1)[0] for image in name])
    score = np.array([float(row["mos_quality"]) for row in rows])
    prompt = np.unique([row["prompt"] for row in rows], return_inverse=True)[1]
    pairs = np.array(
        [
            rng.permutation(pair)
            for p in range(prompt.max() + 1)
            for pair in combinations(np.flatnonzero(prompt == p), 2)
        ]
    )
    i, j = pairs[rng.integers(0, len(pairs), round(per_image * len(rows) / 2))].T
    seen = score[i] - score[j] + NOISE * np.sqrt(2.0) * rng.normal(size=len(i))
    sign = np.where(np.abs(seen) <= MARGIN, 0, np.sign(seen)).astype(int)
    wins = np.bincount(i, sign, len(rows)) - np.bincount(j, sign, len(rows))
    return pl.DataFrame(
        {
            "vote_id": np.arange(len(i)).astype(str),
            "model_a": model[i],
            "model_b": model[j],
            "outcome": np.array(["tie", "a", "b"])[sign],
            "image_a": name[i],
            "image_b": name[j],
            "truth": score[i] - score[j],
            "borda": wins[i] - wins[j],
        }
    )


def show_agiqa(seeds: int = 5) -> None:
    """Print how well the gaps follow the mean opinion scores, by votes an image."""
    print("\nAGIQA-3K, simulated votes: correlation of gap and true score difference, strict votes")
    print("  votes an image   pairwise   Borda            joint            rho   sweeps")
    for per_image in (1.0, 1.5, 3.0, 6.0):
        found, rho, sweeps = [], [], 0
        for seed in range(seeds):
            votes = agiqa_votes(per_image, seed)
            ratings = TrueSkill(draw_probability="auto").fit(votes)
            joint, report = joint_gaps(votes, ratings, signed=True)
            sign = votes["outcome"].replace_strict({"a": 1.0, "b": -1.0, "tie": 0.0}).to_numpy()
            gaps = [
                pairwise_gaps(votes, ratings)["gap"].to_numpy(),
                sign * votes["borda"].to_numpy(),
                joint["gap"].to_numpy(),
            ]
            truth = sign * votes["truth"].to_numpy()
            strict = (sign != 0).astype(float)
            found.append([pearson(gap, truth, strict) for gap in gaps])
            rho.append(report.settings.rho)
            sweeps = max(sweeps, report.sweeps)
        cells = "   ".join(
            f"{m:.3f} +- {s:.3f}" for m, s in zip(np.mean(found, 0), np.std(found, 0), strict=True)
        )
        print(f"  {per_image:4.1f}  {cells}   {np.mean(rho):.2f}  {sweeps}")


def imagereward_votes() -> pl.DataFrame:
    """Read ImageReward's rankings as votes of one unnamed model, with `ranks`, b's minus a's."""
    rows = []
    for r, ranking in enumerate(json.loads((DATA / "imagereward" / "test.json").read_text())):
        for i, j in combinations(range(len(ranking["ranking"])), 2):
            ranks = ranking["ranking"][j] - ranking["ranking"][i]
            outcome = "tie" if ranks == 0 else "a" if ranks > 0 else "b"
            rows.append((f"{r}-{i}-{j}", outcome, f"{r}/{i}", f"{r}/{j}", str(r), ranks))
    columns = ["vote_id", "outcome", "image_a", "image_b", "rater", "ranks"]
    return pl.DataFrame(rows, schema=columns, orient="row").with_columns(
        model_a=pl.lit("unnamed"), model_b=pl.lit("unnamed")
    )


def show_imagereward() -> None:
    """Print the gap by the difference in rank."""
    votes = imagereward_votes()
    ratings = TrueSkill(draw_probability="auto").fit(votes)
    joint, report = joint_gaps(votes, ratings, signed=True)
    print(f"\nImageReward, {votes['rater'].n_unique()} rankings, {votes.height:,} votes: {report}")
    by_rank = (
        pl.DataFrame({"ranks apart": votes["ranks"].abs(), "gap": joint["gap"]})
        .group_by("ranks apart")
        .agg(votes=pl.len(), gap=pl.mean("gap").round(2), least=pl.min("gap").round(2))
        .sort("ranks apart")
    )
    for ranks, n, gap, least in by_rank.iter_rows():
        print(f"  {ranks} apart: {n:5,} votes, mean gap {gap:.2f}, least {least:.2f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--rotate", action="store_true", help="every rater, and several together")
    parser.add_argument("--images", action="store_true", help="AGIQA-3K and ImageReward")
    arguments = parser.parse_args()
    panels = [genai_bench(), tifa160()]
    if arguments.rotate:
        panels.insert(1, clipped(genai_bench()))
    for panel in panels:
        show(panel, (0,), arguments.resamples)
        if arguments.rotate:
            raters = range(panel.points.shape[2])
            for r in raters[1:]:
                show(panel, (r,), arguments.resamples)
            for size in range(2, len(raters)):
                show(panel, tuple(raters[:size]), arguments.resamples)
                show(panel, tuple(raters[-size:]), arguments.resamples)
    if arguments.images:
        show_agiqa()
        show_imagereward()


if __name__ == "__main__":
    main()
