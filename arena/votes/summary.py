"""What a person should know of votes that were read: `python -m arena inspect`, and every command.

`describe` says all of it; `notes` only what no command may keep to itself.
"""

import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime

import numpy as np
import polars as pl

from arena.escape import printable
from arena.schema import UNNAMED, VOTES
from arena.votes.layout import is_path
from arena.votes.read import FileReading, Reading, commonest

# A rater who gave fewer votes tells little about itself.
FEW = 5
# So many images are looked for on the disk.
LOOKED_FOR = 500


def notes(reading: Reading) -> list[str]:
    """Return what every command says of its votes: what was left out, and what counts once."""
    said: list[str] = []
    for file in reading.files:
        said += _file(file) if file.fault is not None or file.repeats is not None else ()
    within = reading.duplicates - sum(f.duplicates for f in reading.files if f.repeats is not None)
    if within:
        said.append(f"{_count(within, 'row')} equal to an earlier one: counted once")
    if reading.rejected.height:
        why = commonest(reading.rejected, 1)
        said.append(
            f"{_count(reading.rejected.height, 'row')} rejected, most of all {why}; "
            "`python -m arena inspect` names them"
        )
    if reading.doubts.height:
        said.append(
            f"{_count(reading.doubts.height, 'value')} could not be read, most of all "
            f"{commonest(reading.doubts, 1)}; the votes stay"
        )
    return list(map(printable, said))


def describe(reading: Reading) -> str:
    """Return what the files hold, line by line: columns, rejections, models, raters, images."""
    lines = [line for file in reading.files for line in _file(file)]
    lines.append(
        f"{_count(reading.rows, 'row')} = {reading.accepted:,} accepted + "
        f"{reading.rejected.height:,} rejected + {_count(reading.duplicates, 'exact duplicate')}"
    )
    lines += _each("rejected", reading.rejected) + _each("not read", reading.doubts)
    if not reading.votes.is_empty():
        for part in (_votes, _models, _raters, _images, _times):
            lines += part(reading)
    return "\n".join(map(printable, lines))


def _file(file: FileReading) -> Iterator[str]:
    if file.fault is not None:
        yield f"{file.name}: left out: {file.fault}"
        return
    if file.repeats is not None:
        yield f"{file.name}: the same content as {file.repeats}; its votes count once"
        return
    yield f"{file.name}: {file.container}, read as {file.format}"
    renamed = [f"{ours} = {theirs}" for ours, theirs in file.columns.items()]
    if renamed:
        yield f"  columns: {', '.join(renamed)}"
        there = {*file.columns, *file.derived, "ranking"}
        absent = [name for name in VOTES if name not in there]
        yield f"  not there: {', '.join(absent) or 'none'}"
    if file.unread:
        yield f"  not read: {', '.join(file.unread[:24])}{', ...' if len(file.unread) > 24 else ''}"
    for what, count in file.skipped.items():
        yield f"  no votes: {count:,} {what}"


def _each(what: str, rows: pl.DataFrame) -> list[str]:
    """Say each kind of rejection once, with its first row."""
    kinds = rows.group_by("file", "column", "reason", maintain_order=True).agg(
        pl.len(), pl.first("row"), pl.first("value")
    )
    return [
        f"{what}: {kind['len']:,} in {kind['file']}, first in row {kind['row']}: "
        f"{(kind['column'] + ' ') if kind['column'] else ''}{kind['reason']}"
        + (f" ({kind['value']!r})" if kind["value"] else "")
        for kind in kinds.iter_rows(named=True)
    ]


def _votes(reading: Reading) -> Iterator[str]:
    votes = reading.votes
    counts = votes.select("votes_a", "votes_b", "votes_tie").drop_nulls("votes_a")
    if counts.height:
        total = int(counts.sum_horizontal().sum()) + votes.height - counts.height
        several = f"{_count(counts.height, 'row')} of several raters"
        yield f"votes: {total:,} in {_count(votes.height, 'row')}, {several}"
    ties = (votes["outcome"] == "tie").sum()
    yield f"ties: {ties:,} ({ties / votes.height:.1%})"
    rankings = reading.rankings
    if rankings.height:
        sizes = rankings["ranks"].list.len().to_numpy().astype(np.int64)
        tied = int((rankings["ranks"].list.n_unique().to_numpy() < sizes).sum())
        images = f"{sizes.min()} to {sizes.max()}" if np.ptp(sizes) else f"{sizes[0]}"
        pairs = int((sizes * (sizes - 1) // 2).sum())
        yield (
            f"K-wise votes: {rankings.height:,} of {images} images, {tied:,} with ties; "
            f"{pairs:,} of the votes are their pairs"
        )
    shown = int((~votes["anonymous"]).sum())
    if votes["anonymous"].null_count() < votes.height:
        yield (
            f"models' names were shown: in {shown:,} of {votes.height:,} votes"
            + ("; such votes may follow the name" if shown else "")
        )
    dimensions = votes["dimension"].drop_nulls().unique(maintain_order=True)
    if len(dimensions) > 1:
        yield f"dimensions: {', '.join(dimensions)}, all of them are rated together"
    elif len(dimensions):
        yield f"dimension: {dimensions[0]}"


def _models(reading: Reading) -> Iterator[str]:
    votes = reading.votes
    met = votes.select(
        a=pl.min_horizontal("model_a", "model_b"), b=pl.max_horizontal("model_a", "model_b")
    )
    pairs = met.filter(pl.col("a") != pl.col("b")).unique()
    models = sorted(pl.concat([votes["model_a"], votes["model_b"]]).unique())
    yield f"models: {len(models):,}, {_count(pairs.height, 'pair')} of them compared"
    for names in alike(models):
        said = " / ".join(map(repr, names))
        yield f"the same model? {said} differ by blanks, case or Unicode form only"
    itself = (votes["model_a"] == votes["model_b"]).sum()
    if itself and models != [UNNAMED]:
        yield f"a model against itself: {itself:,} (kept for training, not for ratings)"
    if UNNAMED in models:
        unnamed = votes.filter(
            (pl.col("model_a") == UNNAMED) | (pl.col("model_b") == UNNAMED)
        ).height
        yield (
            f"models not named: in {unnamed:,} votes; their images share one prior, so they inform "
            "the joint gap and not the ratings"
        )
    groups = _groups(models, pairs)
    if len(groups) == 1:
        yield "groups: 1, every model is connected to every other by votes"
    else:
        yield f"groups never compared with each other: {len(groups)}"
        yield from (f"  {k}: {', '.join(names)}" for k, names in enumerate(groups))


def alike(models: list[str]) -> list[list[str]]:
    """Return the names that differ by blanks, case or Unicode form only, together."""
    found: dict[str, list[str]] = {}
    for name in models:
        bare = unicodedata.normalize("NFKC", name).casefold()
        found.setdefault("".join(bare.split()), []).append(name)
    return [names for names in found.values() if len(names) > 1]


def _groups(models: list[str], pairs: pl.DataFrame) -> list[list[str]]:
    """Return the models that votes connect, the largest group first."""
    group = {name: {name} for name in models}
    for a, b in pairs.iter_rows():
        if group[a] is not group[b]:
            small, large = sorted((group[a], group[b]), key=len)
            large |= small
            group.update(dict.fromkeys(small, large))
    found = {id(names): sorted(names) for names in group.values()}
    return sorted(found.values(), key=lambda names: (-len(names), names))


def _raters(reading: Reading) -> Iterator[str]:
    counts = reading.votes["rater"].drop_nulls().value_counts()["count"].to_numpy()
    if not len(counts):
        yield "raters: not named"
        return
    few = int((counts < FEW).sum())
    yield f"raters: {len(counts):,}, {_spread(counts)} votes each; {few:,} gave fewer than {FEW}"
    if len(counts) == 1 and counts[0] > 1:
        yield "a single rater gave all of them: the ratings are that rater's taste"


def _images(reading: Reading) -> Iterator[str]:
    seen = pl.concat([reading.votes["image_a"], reading.votes["image_b"]]).drop_nulls()
    if seen.is_empty():
        yield "images: not named"
        return
    names = seen.value_counts(sort=False)
    counts = names["count"].to_numpy()
    more = int((counts > 1).sum())
    yield (
        f"images: {len(counts):,}, {_spread(counts)} votes each; "
        f"{more:,} ({more / len(counts):.0%}) were compared more than once"
    )
    paths = [name for name in names[seen.name] if is_path(name)][:LOOKED_FOR]
    if paths:
        there = sum((reading.folder / name).is_file() for name in paths)
        missing = next((name for name in paths if not (reading.folder / name).is_file()), None)
        yield (
            f"image files: {there:,} of {len(paths):,} looked for are there, from "
            f"{reading.folder.absolute()}" + (f"; {missing} is not" if missing else "")
        )
    prompts = reading.votes["prompt"].fill_null(reading.votes["prompt_id"]).drop_nulls().n_unique()
    yield f"prompts: {prompts:,}" if prompts else "prompts: not named"


def _times(reading: Reading) -> Iterator[str]:
    times = reading.votes["created_at"].drop_nulls()
    if times.is_empty():
        yield "time: not told; the order of the file is that of the votes"
        return
    days = times.sort().dt.strftime("%Y-%m-%d %H:%M")
    yield f"time: {days[0]} to {days[-1]} UTC"
    late = reading.votes.filter(pl.col("created_at") > datetime.now(UTC))
    if late.height:
        yield (
            f"in the future: {late.height:,} votes, such as {late['vote_id'][0]} of "
            f"{late['created_at'][0]:%Y-%m-%d}; they count as the latest"
        )


def _spread(counts: np.ndarray) -> str:
    return f"{counts.min():,} to {counts.max():,} (median {np.median(counts):g})"


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")
