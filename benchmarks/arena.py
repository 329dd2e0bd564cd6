"""The arena beside its peers, on the same votes in one run, and as the votes grow.

    python -m benchmarks.arena peers [--votes 50000]
    python -m benchmarks.arena growth [--most 100000000]
    python -m benchmarks.arena command [--votes 20000000] [--folder /tmp]
    python -m benchmarks.arena gaps [--votes 50000000]

peers: `trueskill` (both backends) and openskill rate the votes one after another, as our
`trueskill` does; choix and arena-rank fit them at once, as our `thurstone` and `bradley_terry` do.
growth: every estimator from 10^4 votes on, votes in memory. command: `python -m arena fit` and
`gaps` on a parquet, with its peak memory, against what the `trueskill` package needs for as many
votes in this very run, with its scipy backend and with its own, which is four times faster. gaps:
the table of pairs of models looked up for every vote, in memory.

The votes are simulated (`simulated_votes`). The peers are the dependency group
`benchmarks`; arena-rank brings jax, so give them an environment of their own. A time in this
process is of the processor, so that what else runs on the machine does not count, and the best of
several runs, of the slow peers of one; what is not installed is named and left out.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from arena.gaps.pairwise import pairwise_gaps
from arena.ratings.comparisons import A_WINS, B_WINS, TIE, Comparisons
from arena.ratings.table import estimator
from arena.schema import OUTCOMES
from benchmarks.simulated_votes import MODELS, PART, comparisons, named, rankings, write_votes

NAMES = ("trueskill", "openskill", "choix", "arena-rank", "numpy", "numba", "polars", "pyarrow")


def best(function: Callable[[], object], repeats: int) -> float:
    """Return the least seconds of processor of several calls."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return min(times)


def say(name: str, seconds: float, votes: int, against: float | None = None) -> None:
    """Print one line; against: our seconds a vote."""
    each = seconds / votes
    ratio = f"{each / against:12,.1f} x ours" if against else ""
    print(f"  {name:44s} {seconds:9.3f} s  {each * 1e9:12,.1f} ns a vote {ratio}", flush=True)


def by_trueskill(votes: Comparisons, backend: str | None) -> dict[int, tuple[float, float]]:
    """Rate by the `trueskill` package, as its documentation does."""
    import trueskill

    env = trueskill.TrueSkill(backend=backend)
    rating = [env.create_rating() for _ in votes.models]
    columns = votes.a.tolist(), votes.b.tolist(), votes.outcome.tolist()
    for i, j, won in zip(*columns, strict=True):
        w, l = (j, i) if won == B_WINS else (i, j)
        rating[w], rating[l] = trueskill.rate_1vs1(rating[w], rating[l], won == TIE, env=env)
    return {k: (one.mu, one.sigma) for k, one in enumerate(rating)}


def by_trueskill_rankings(ranked: pl.DataFrame) -> None:
    """Rate K-wise votes by the `trueskill` package, until its messages have settled."""
    import trueskill

    env = trueskill.TrueSkill()
    rating = {name: env.create_rating() for name in MODELS}
    for models, ranks in ranked.select("models", "ranks").iter_rows():
        rated = env.rate([(rating[name],) for name in models], ranks=ranks, min_delta=1e-300)
        rating.update({name: one for name, (one,) in zip(models, rated, strict=True)})


def by_openskill(votes: Comparisons, kind: str) -> None:
    """Rate by one of openskill's models."""
    from openskill import models

    model = getattr(models, kind)()
    rating = [model.rating() for _ in votes.models]
    columns = votes.a.tolist(), votes.b.tolist(), votes.outcome.tolist()
    for i, j, won in zip(*columns, strict=True):
        ranks = [1, 1] if won == TIE else [1, 2] if won == A_WINS else [2, 1]
        (rating[i],), (rating[j],) = model.rate([[rating[i]], [rating[j]]], ranks=ranks)


def by_choix(votes: Comparisons) -> None:
    """Fit choix's maximum likelihood; it knows no ties, so they are left out."""
    import choix

    won = votes.outcome != TIE
    first = votes.outcome == A_WINS
    w = np.where(first, votes.a, votes.b)[won].tolist()
    l = np.where(first, votes.b, votes.a)[won].tolist()
    choix.ilsr_pairwise(len(votes.models), list(zip(w, l, strict=True)), alpha=1e-6)


def by_arena_rank(table: object) -> dict[str, float]:
    """Fit arena-rank's Bradley-Terry with its intervals to a pandas table."""
    from arena_rank.models.bradley_terry import BradleyTerry
    from arena_rank.utils.data_utils import PairDataset

    data = PairDataset.from_pandas(table)
    found = BradleyTerry(n_competitors=len(data.competitors)).compute_ratings_and_cis(data)
    return dict(zip(found["competitors"], np.asarray(found["ratings"]).tolist(), strict=True))


def has(module: str) -> bool:
    """Tell whether a peer is installed, and name it where it is not."""
    found = find_spec(module) is not None
    if not found:
        print(f"  {module}: not installed (dependency group `benchmarks`)")
    return found


def peers(n: int) -> None:
    """Print the table of peers."""
    votes = comparisons(n)
    print(f"\none vote after another, {n:,} votes")
    ours = estimator("trueskill").fit
    rated = ours(votes)
    each = best(lambda: ours(votes), 20)
    say("ours: trueskill", each, n)
    many = comparisons(max(n, 10_000_000))
    grown = best(lambda: ours(many), 5) / len(many)
    say(f"ours: trueskill, {len(many):,} votes", grown * len(many), len(many))
    for backend in ("scipy", None):
        expected: list[dict[int, tuple[float, float]]] = []
        seconds = best(lambda b=backend, e=expected: e.append(by_trueskill(votes, b)), 1)
        say(f"trueskill, backend {backend or 'its own'}", seconds, n, each / n)
        table = rated.table.select("model", "mu", "sigma").rows()
        off = max(
            abs(x / y - 1.0)
            for name, *found in table
            for x, y in zip(found, expected[0][MODELS.index(name)], strict=True)
        )
        print(f"    {seconds / n / grown:,.0f} x ours at {len(many):,} votes")
        print(f"    largest relative difference of mu or sigma {off:.1e}")
    if has("openskill"):
        for kind in ("ThurstoneMostellerFull", "PlackettLuce"):
            seconds = best(lambda k=kind: by_openskill(votes, k), 1)
            say(f"openskill {kind}", seconds, n, each / n)

    ranked = rankings(n // 10)
    print(f"\none K-wise vote after another, {len(ranked):,} votes of four")
    ours(rankings=ranked)
    each = best(lambda: ours(rankings=ranked), 5)
    say("ours: trueskill", each, len(ranked))
    seconds = best(lambda: by_trueskill_rankings(ranked), 1)
    say("trueskill, backend its own, tightest", seconds, len(ranked), each / len(ranked))

    print(f"\nall votes at once, {n:,} votes")
    fits = {name: estimator(name).fit for name in ("thurstone", "bradley_terry")}
    cost = {}
    for name, fit in fits.items():
        fit(votes)
        cost[name] = best(lambda f=fit: f(votes), 10)
        say(f"ours: {name}", cost[name], n)
    each = cost["bradley_terry"] / n
    if has("choix"):
        say("choix ilsr_pairwise, without ties", best(lambda: by_choix(votes), 1), n, each)
    if has("arena_rank"):
        frame = named(votes).select("model_a", "model_b", winner=winner()).to_pandas()
        by_arena_rank(frame)  # jax compiles
        found: list[dict[str, float]] = []
        seconds = best(lambda: found.append(by_arena_rank(frame)), 3)
        say("arena-rank BradleyTerry with intervals", seconds, n, each)
        table = fits["bradley_terry"](votes).table
        theirs = np.array([found[0][name] for name in table["model"]])
        off = np.abs(table["elo"].to_numpy() - theirs - (1000.0 - theirs.mean())).max()
        print(f"    largest difference {off:.2e} points")


def winner() -> pl.Expr:
    """Spell outcomes as lmarena does."""
    return pl.col("outcome").replace({"a": "model_a", "b": "model_b"})


def growth(most: int) -> None:
    """Print what every estimator takes from 10^4 votes up to `most`."""
    whole = comparisons(most)
    for name in ("trueskill", "thurstone", "bradley_terry"):
        fit = estimator(name).fit
        fit(whole.part(0, 1000 * len(MODELS)))
        print(f"\n{name}")
        n = 10_000
        while n <= most:
            part = whole.part(0, n)
            seconds = best(lambda p=part, f=fit: f(p), 5 if n < 10**8 else 2)
            say(f"{n:,} votes", seconds, n)
            n *= 10


def run(*arguments: object) -> tuple[float, float, float]:
    """Run `python -m arena`; return (seconds, seconds of processor, GB of peak memory)."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "arena", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    seconds = time.perf_counter() - start
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e9


def command(n: int, folder: Path) -> None:
    """Print what the commands take on a parquet of n votes."""
    sample = comparisons(20_000)
    with TemporaryDirectory(dir=folder) as aside:
        votes, ratings, gaps = (Path(aside) / f"{x}.parquet" for x in ("votes", "ratings", "gaps"))
        write_votes(n, votes)
        print(f"\npython -m arena on {n:,} votes, {votes.stat().st_size / 1e6:,.0f} MB of parquet")
        run("fit", votes, "--out", ratings)  # compiles, once an installation
        fits = [run("fit", votes, "--out", ratings) for _ in range(3)]
        rows = {"fit": min(fits)}
        for name in ("thurstone", "bradley_terry"):
            other = Path(aside) / "other.parquet"
            rows[f"fit --estimator {name}"] = run("fit", votes, "--out", other, "--estimator", name)
        rows["gaps"] = run("gaps", votes, "--ratings", ratings, "--out", gaps)
        for name, (seconds, processor, peak) in rows.items():
            print(
                f"  {name:32s} {seconds:8.2f} s  {processor:8.2f} s of processor  "
                f"{peak:5.2f} GB peak  {seconds / n * 1e9:7.1f} ns a vote"
            )
        for backend in ("scipy", None):
            each = best(lambda b=backend: by_trueskill(sample, b), 2) / len(sample)
            print(
                f"  the trueskill package, backend {backend or 'its own'}: {each * 1e6:.1f} us a "
                f"vote here, so {each * n:,.0f} s: {each * n / rows['fit'][0]:,.0f} x the seconds "
                f"of fit, {each * n / rows['fit'][1]:,.0f} x its processor's"
            )


def look_up(n: int) -> None:
    """Print what the lookup of n gaps takes in memory, votes by names in parts."""
    votes = comparisons(min(n, 5 * PART))
    ratings = estimator("trueskill").fit(votes)
    kinds = {"model_a": pl.Enum(MODELS), "model_b": pl.Enum(MODELS), "outcome": pl.Enum(OUTCOMES)}
    for what, schema in (("names", {}), ("enums", kinds)):
        table = named(votes).with_columns(vote_id=pl.int_range(pl.len())).cast(schema)
        pairwise_gaps(table.head(10), ratings)
        seconds, done = 0.0, 0
        while done < n:
            part = table.head(n - done)
            seconds += best(lambda p=part: pairwise_gaps(p, ratings), 1)
            done += len(part)
        say(f"gaps of {n:,} votes, models as {what}", seconds, n)


def versions() -> str:
    """Name the machine's cores and every library's version."""
    said = []
    for name in NAMES:
        try:
            said.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            said.append(f"{name} -")
    load = f"{os.getloadavg()[0]:.1f}"
    return f"Python {platform.python_version()}, {os.cpu_count()} cores, load {load}; " + ", ".join(
        said
    )


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts = parser.add_subparsers(dest="part", required=True)
    parts.add_parser("peers").add_argument("--votes", type=int, default=50_000)
    parts.add_parser("growth").add_argument("--most", type=int, default=100_000_000)
    ends = parts.add_parser("command")
    ends.add_argument("--votes", type=int, default=20_000_000)
    ends.add_argument("--folder", type=Path, default=Path("/tmp"))
    parts.add_parser("gaps").add_argument("--votes", type=int, default=50_000_000)
    given = parser.parse_args()
    print(versions())
    if given.part == "peers":
        peers(given.votes)
    elif given.part == "growth":
        growth(given.most)
    elif given.part == "gaps":
        look_up(given.votes)
    else:
        command(given.votes, given.folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"peak memory of this process {peak:.2f} GB; load now {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
