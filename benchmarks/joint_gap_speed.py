"""The joint gap of a million votes: seconds, sweeps, memory, on graphs of many shapes.

    python -m benchmarks.joint_gap_speed [--votes 1000000] [--shapes "ten images" ...]

    one image a vote   votes between random images, as many images as votes: a large component
    rankings           four images a prompt, all six pairs, one rater each: many small dense graphs
    ten votes an image a tenth as many images as votes: one graph full of cycles
    repeated pairs     a third as many pairs as votes, raters unknown: one factor of counts for each
    ten images         every pair of ten images, raters unknown
    a thousand images  most pairs of a thousand images, raters unknown
    named raters       twenty images, 5,000 raters: every rater's taste for each image
    consistent         900 images, no noise: every vote agrees with one order

Each in a process of its own, so that its peak memory is its own; what compiling costs is left out.
"""

import argparse
import multiprocessing
import resource
import time

import numpy as np
import polars as pl

from arena.gaps.joint import joint_gaps
from arena.ratings.trueskill import TrueSkill

MODELS = 20
RATERS = 5000
# The number of images, given that of votes.
SHAPES = {
    "one image a vote": lambda votes: votes,
    "rankings": lambda votes: 4 * (votes // 6),
    "ten votes an image": lambda votes: votes // 10,
    "repeated pairs": lambda votes: votes // 10,
    "ten images": lambda votes: 10,
    "a thousand images": lambda votes: 1_000,
    "named raters": lambda votes: 20,
    "consistent": lambda votes: 900,
}
NAMED = ("one image a vote", "rankings", "ten votes an image", "named raters")


def simulated(shape: str, votes: int) -> pl.DataFrame:
    """Return votes of a shape: images spread by sqrt(0.5) about their model, as much noise."""
    rng = np.random.default_rng(0)
    images = SHAPES[shape](votes)
    if shape == "rankings":
        prompts = votes // 6
        i, j = (4 * np.arange(prompts)[:, None] + np.array(np.triu_indices(4, 1))[:, None]).reshape(
            2, -1
        )
        rater = np.repeat(np.arange(prompts), 6)
    else:
        i = rng.integers(0, images, votes)
        j = (i + rng.integers(1, images, votes)) % images
        rater = rng.integers(0, RATERS, votes)
    if shape == "repeated pairs":
        pair = rng.integers(0, votes // 3, votes)
        i, j = i[pair], j[pair]
    model = rng.integers(0, MODELS, images)
    x = rng.normal(0.0, 0.7, MODELS)[model] + np.sqrt(0.5) * rng.normal(size=images)
    noise, margin = (0.0, 0.0) if shape == "consistent" else (1.0, 0.3)
    d = x[i] - x[j] + noise * rng.normal(size=len(i))
    sign = np.where(np.abs(d) < margin, 0, np.sign(d)).astype(int)
    table = {
        "vote_id": np.arange(len(i)),
        "model_a": model[i],
        "model_b": model[j],
        "outcome": np.array(["tie", "a", "b"])[sign],
        "image_a": i,
        "image_b": j,
        "rater": rater,
    }
    named = pl.DataFrame(table).with_columns(pl.all().cast(pl.String))
    return named if shape in NAMED else named.drop("rater")


def measure(shape: str, count: int) -> None:
    """Print one line."""
    votes = simulated(shape, count)
    ratings = TrueSkill(draw_probability="auto").fit(votes)
    joint_gaps(votes[:100], ratings)
    started, worked = time.perf_counter(), time.process_time()
    _, report = joint_gaps(votes, ratings)
    took, work = time.perf_counter() - started, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    images = pl.concat([votes["image_a"], votes["image_b"]]).n_unique()
    print(
        f"{shape:20s} {votes.height:,} votes, {images:,} images: {took:.1f} s ({work:.1f} s of"
        f" processor), {report.sweeps} sweeps, "
        f"{'converged' if report.converged else 'NOT converged'}, peak {peak:.1f} GiB"
        f" with the votes, rho {report.settings.rho:.2f}",
        flush=True,
    )


def main() -> None:
    """Print a line a shape."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--votes", type=int, default=1_000_000)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    options = parser.parse_args()
    for shape in options.shapes:
        process = multiprocessing.get_context("spawn").Process(
            target=measure, args=(shape, options.votes)
        )
        process.start()
        process.join()


if __name__ == "__main__":
    main()
