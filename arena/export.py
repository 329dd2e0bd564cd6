"""Pairs with their margins in the layouts that other trainers read: the data half of the method.

    gaps = pairwise_gaps(votes, ratings)
    print(export_pairs(votes, gaps, "diffusers", "pairs/", Images(root="study/")))

How a layout is written is in `arena.layouts`. No trainer is imported, and nothing is trained.
"""

import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from arena.escape import printable
from arena.layouts import LAYOUTS, TOGETHER, Pair, Stored
from arena.votes.images import THREADS, ImageFault, Images
from arena.votes.read import Reading


@dataclass
class Export:
    """What was written: pairs by split, votes left out by reason, and what is still to be done."""

    out: Path
    mean_gap: float
    pairs: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    fault: str = ""
    remark: str = ""

    def __str__(self) -> str:
        splits = ", ".join(f"{n:,} {split}" for split, n in self.pairs.items())
        said = [f"pairs: {self.pairs.total():,} ({splits}) in {self.out}"]
        said.append(f"mean gap {self.mean_gap:.4g}: a margin is a gap over this mean")
        said += [f"left out: {n:,} {reason}" for reason, n in self.left_out.items()]
        return "\n".join(said + [each for each in (self.fault, self.remark) if each])


def export_pairs(
    votes: pl.DataFrame, gaps: pl.DataFrame, layout: str, out: Path | str, images: Images
) -> Export:
    """Write every strict vote's pair with its margin into a new folder, in a trainer's layout.

    votes: columns `schema.VOTES`. gaps: columns `schema.GAPS`, matched by vote_id. layout: a key of
    `LAYOUTS`. out: a folder that is absent or empty; it appears whole or not at all. A split is
    kept (null is train). Ties, and votes without a prompt, an image or a gap, are left out and
    counted. Memory holds 64 pairs at a time.
    Raises ValueError for an unknown layout, a folder with something in it, a split that is no word,
    and where no pair is left.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"no layout is called {layout!r}; choose from {', '.join(LAYOUTS)}")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: not an empty folder; name a new one")
    table, left_out = _strict(votes, gaps)
    trained = table.filter(pl.col("split") == "train")
    if table.is_empty():
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in left_out.items())
        raise ValueError(f"no pairs to export: {reasons or 'no votes'}")
    mean = float((trained if trained.height else table)["gap"].to_numpy().mean())
    if not mean > 0.0:
        raise ValueError(f"the mean gap is {mean:.4g}, so margins have no scale")
    export = Export(out, mean, left_out=left_out)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        # Splits one after another, so that one file is open at a time.
        for (split,), part in table.group_by("split", maintain_order=True):
            pairs = _pairs(part, mean, images, export)
            export.remark = LAYOUTS[layout](aside, out, str(split), pairs)
        if not export.pairs:
            raise ValueError(f"no pairs to export: no image could be read; {export.fault}")
        aside.chmod(0o755)
        aside.replace(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return export


def files_with_images(reading: Reading) -> list[Path]:
    """Return the files of these votes that may hold images too: parquets and tars on this machine.

    They are sources for `Images`, which takes from them what it finds.
    """
    held = [Path(file.name) for file in reading.files if file.container in ("parquet", "tar")]
    return [path for path in held if path.is_file()]


def _strict(votes: pl.DataFrame, gaps: pl.DataFrame) -> tuple[pl.DataFrame, Counter[str]]:
    """Return the votes that make a pair, with gap and gap_sd, and how many do not, by reason."""
    known = gaps.select("vote_id", "gap", "gap_sd")
    table = votes.join(known, on="vote_id", how="left", maintain_order="left")
    table = table.with_columns(pl.col("split").fill_null("train"))
    reasons = {
        "ties": pl.col("outcome") == "tie",
        "without a prompt": pl.col("prompt").is_null(),
        "without both images": pl.col("image_a").is_null() | pl.col("image_b").is_null(),
        "without a gap": pl.col("gap").is_null() | pl.col("gap").is_nan(),
    }
    left_out: Counter[str] = Counter()
    for reason, of_it in reasons.items():
        before = table.height
        table = table.filter(~of_it)
        if before > table.height:
            left_out[reason] = before - table.height
    for split in table["split"].unique():
        if not re.fullmatch(r"\w+", split):
            raise ValueError(f"the split {split!r} cannot be part of a file's name; use one word")
    return table, left_out


def _pairs(table: pl.DataFrame, mean: float, images: Images, export: Export) -> Iterator[Pair]:
    """Yield the pairs whose images can be read; count the others."""

    def stored(content: bytes | ImageFault) -> Stored | ImageFault:
        try:
            return content if isinstance(content, ImageFault) else Stored.of(content)
        except ImageFault as fault:
            return fault

    with ThreadPoolExecutor(THREADS) as pool:
        for part in table.iter_slices(TOGETHER):
            held = dict(images.contents([*part["image_a"], *part["image_b"]]))
            found = dict(zip(held, pool.map(stored, held.values()), strict=True))
            for row in part.iter_rows(named=True):
                first = row["outcome"] == "a"
                w, l = ("a", "b") if first else ("b", "a")
                chosen, rejected = found[row[f"image_{w}"]], found[row[f"image_{l}"]]
                if isinstance(chosen, ImageFault) or isinstance(rejected, ImageFault):
                    side = w if isinstance(chosen, ImageFault) else l
                    name = printable(row[f"image_{side}"])
                    fault = found[row[f"image_{side}"]]
                    export.left_out["with an image that cannot be read"] += 1
                    export.fault = export.fault or f"the first such image is {name}: {fault!s}"
                    continue
                export.pairs[row["split"]] += 1
                yield Pair(
                    vote_id=row["vote_id"],
                    prompt=row["prompt"],
                    first=first,
                    winner=row[f"model_{w}"],
                    loser=row[f"model_{l}"],
                    chosen=chosen,
                    rejected=rejected,
                    gap=row["gap"],
                    gap_sd=row["gap_sd"],
                    margin=row["gap"] / mean,
                )
