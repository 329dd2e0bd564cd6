"""Rows become votes or rejections: each column as the schema has it, each fault said once."""

from pathlib import Path

import polars as pl

from arena.schema import OUTCOMES, REJECTED, VOTES
from arena.votes.raw import SHOWN, Raw, VotesError

# No model's name is longer, and none is spread over lines: a quote went wrong there.
LONGEST = 500
CONTROL = r"[\x00-\x1f\x7f]"
# Later than this it is a typing error. Nearer futures pass: what is accepted must not depend on
# the day on which the same file is read.
LAST_YEAR = 2100


def check(raw: Raw, path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Split a file's rows into votes and rejections; a row is rejected for its first fault.

    Only the columns that the arena needs can condemn a row, so reading these alone (`stream`)
    accepts the same ones. Returns (votes with every column of `schema.VOTES` and `row`,
    rejections). Raises VotesError for a column that holds neither text nor numbers.
    """
    try:
        return _check(raw, path)
    except pl.exceptions.PolarsError as error:
        said = (str(error).splitlines() or ["no reason"])[0][:SHOWN]
        raise VotesError(f"{path}: its columns are no text or numbers ({said})") from None


def _check(raw: Raw, path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    rows = raw.rows
    faults: list[tuple[str, str, pl.Expr]] = []  # column, reason, where it holds
    columns: dict[str, pl.Expr] = {}
    for name, kind in VOTES.items():
        if name not in rows.columns:
            columns[name] = pl.lit(None, dtype=kind)
            continue
        given = rows[name].dtype
        if given.is_nested() or given == pl.Binary:
            raise VotesError(f"{path}: column {name} holds {given}; it must hold text or numbers")
        if name == "created_at":
            columns[name] = time(pl.col(name), given)
            reason = f"not a time (ISO 8601 in UTC, or seconds since 1970) before {LAST_YEAR}"
            faults.append((name, reason, columns[name].is_null() & pl.col(name).is_not_null()))
        elif name == "confidence":
            columns[name] = pl.col(name).cast(pl.Float64, strict=False)
            good = columns[name].is_between(0, 1).fill_null(False)
            faults.append((name, "not a number from 0 to 1", pl.col(name).is_not_null() & ~good))
        elif kind == pl.Int64:
            columns[name] = pl.col(name).cast(pl.Int64, strict=False)
        else:
            columns[name] = pl.col(name).cast(pl.String)
            if name in ("model_a", "model_b"):
                faults += [(name, reason, where) for reason, where in _name(columns[name])]
            elif name == "outcome":
                good = columns[name].is_in(OUTCOMES).fill_null(False)
                faults.append((name, "not a, b or tie", ~good))
            elif name == "vote_id":
                columns[name] = columns[name].replace("", None)
    wrong = pl.any_horizontal([where for *_, where in faults]).fill_null(False)
    bad = rows.select(wrong).to_series()
    votes = rows.filter(~bad).select(pl.col("row").cast(pl.Int64), **columns)
    rejected = rows.filter(bad).select(
        pl.lit(str(path)).alias("file"), pl.col("row").cast(pl.Int64), _first(faults, raw.names)
    )
    rejected = rejected.unnest("fault").cast(REJECTED)  # type: ignore[arg-type]
    return votes, pl.concat([raw.broken, rejected]).sort("row")


def _first(faults: list[tuple[str, str, pl.Expr]], names: dict[str, str]) -> pl.Expr:
    """Return the first fault of each row as a struct `fault` of column, reason and value."""
    return pl.coalesce(
        *(
            pl.when(where).then(
                pl.struct(
                    column=pl.lit(names.get(name, name)),
                    reason=pl.lit(reason),
                    value=pl.col(name).cast(pl.String).str.slice(0, SHOWN),
                )
            )
            for name, reason, where in faults
        )
    ).alias("fault")


def _name(column: pl.Expr) -> list[tuple[str, pl.Expr]]:
    """Return what can be wrong with a model's name, and where it is."""
    return [
        ("empty", column.is_null() | (column.str.strip_chars() == "")),
        (f"longer than {LONGEST} bytes", column.str.len_bytes() > LONGEST),
        ("holds a control character", column.str.contains(CONTROL)),
    ]


def time(column: pl.Expr, given: pl.DataType) -> pl.Expr:
    """Return created_at in UTC from a date, seconds since 1970 or ISO 8601 text, else null."""
    found = _any_time(column, given)
    return pl.when(found < pl.datetime(LAST_YEAR, 1, 1, time_zone="UTC")).then(found)


def _any_time(column: pl.Expr, given: pl.DataType) -> pl.Expr:
    if isinstance(given, pl.Datetime):
        aware = column if given.time_zone else column.dt.replace_time_zone("UTC")
        return aware.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    if given == pl.Date:
        return column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    seconds = column.cast(pl.Float64, strict=False)
    # Past the year 5000 it is not seconds but milliseconds: a fault, not a guess.
    seconds = pl.when(seconds.abs() < 1e11).then(seconds)
    numeric = (seconds * 1e6).round().cast(pl.Int64).cast(pl.Datetime("us", "UTC"))
    if given.is_numeric():
        return numeric
    text = column.cast(pl.String).str.replace(r"(?i)z$", "+00:00")
    # One pattern a spelling: polars would settle on the first row's and fail the others.
    patterns = [
        f"%Y-%m-%d{t}%H:%M{s}{z}" for t in ("T", " ") for s in (":%S%.f", "") for z in ("%:z", "")
    ]
    spelled = []
    for pattern in patterns:
        parsed = text.str.to_datetime(pattern, time_unit="us", strict=False)
        spelled.append(parsed if pattern.endswith("z") else parsed.dt.replace_time_zone("UTC"))
    day = text.str.to_date("%Y-%m-%d", strict=False)
    spelled.append(day.cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))
    return pl.coalesce(*spelled, numeric)
