"""One moment, however it is spelled: what ISO 8601, databases, pandas and spreadsheets write."""

from datetime import UTC, datetime

import polars as pl

# Later than this it is a typing error. Nearer futures pass: what is accepted must not depend on
# the day on which the same file is read.
LAST_YEAR = 2100
FIRST, END = datetime(1900, 1, 1, tzinfo=UTC), datetime(LAST_YEAR, 1, 1, tzinfo=UTC)

# Numbers since 1970 are told apart by their size: each unit of these is 1000 of the next, and the
# years 1973 to 5138 in seconds are below 10^11.
SECONDS, MILLISECONDS, MICROSECONDS = 1e11, 1e14, 1e17

# The last two are ISO 8601 without marks, and RFC 2822 as mail and web servers write it.
PATTERNS = (
    *("%Y-%m-%dT%H:%M:%S%.f%z", "%Y-%m-%dT%H:%M%z", "%Y%m%dT%H%M%S%z"),
    "%a, %d %b %Y %H:%M:%S%z",
)


def in_utc(column: pl.Series) -> pl.Series:
    """Return times in UTC, microseconds; null where a value is none, or outside 1900 to 2100.

    Takes a date or a time (without a zone it is UTC), numbers since 1970 in seconds, milli-, micro-
    or nanoseconds, and text: a number, or ISO 8601 with `T` or a blank, with or without seconds,
    with a zone as `Z`, `UTC`, `+00`, `+0000` or `+00:00`, or without.
    """
    kind = column.dtype
    if kind == pl.Date:
        column = column.cast(pl.Datetime("us"))
    if isinstance(column.dtype, pl.Datetime):
        aware = column if column.dtype.time_zone else column.dt.replace_time_zone("UTC")
        found = aware.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    elif kind.is_numeric():
        found = _since_1970(column)
    else:
        found = _spelled(column.cast(pl.String))
    good = (found >= FIRST) & (found < END)
    if good.all():  # nulls are left out
        return found.alias(column.name)
    return pl.select(pl.when(good).then(found)).to_series().alias(column.name)


def _since_1970(column: pl.Series) -> pl.Series:
    number = column.cast(pl.Float64)
    size = number.abs()
    micro = (
        pl.when(size < SECONDS)
        .then(number * 1e6)
        .when(size < MILLISECONDS)
        .then(number * 1e3)
        .when(size < MICROSECONDS)
        .then(number)
        .when(size < 1e20)
        .then(number / 1e3)
    )
    whole = pl.select(micro).to_series().round().cast(pl.Int64, strict=False)
    return whole.cast(pl.Datetime("us", "UTC"))


def _spelled(text: pl.Series) -> pl.Series:
    bare = text.str.strip_chars()
    number = bare.cast(pl.Float64, strict=False)
    if number.null_count() == bare.null_count():
        return _since_1970(number)
    one = (
        bare.str.replace(r"^(\d{4})/(\d\d?)/(\d\d?)", "${1}-${2}-${3}")
        .str.replace(r"^(\d{4}-\d\d?-\d\d?)$", "${1}T00:00")
        .str.replace(r"^(\d{4}-\d\d?-\d\d?)\s+", "${1}T")
        .str.replace(r"(:\d\d),(\d)", "${1}.${2}")
        .str.replace(r"(?i)([+-]\d\d:?\d\d)\s*(z|utc|gmt)$", "${1}")
        .str.replace(r"(?i)\s*(z|utc|gmt)$", "+0000")
        .str.replace(r"(T\d\d?:\d\d.*)\s*([+-]\d\d)(?::?(\d\d))?$", "${1}${2}${3}")
        .str.replace(r"([+-]\d\d)$", "${1}00")
        .str.replace(r"(T[\d:.]+)$", "${1}+0000")
    )
    # `([+-]\d\d)$` also ends a bare date, which has its time by now.
    found = [
        one.str.to_datetime(p, time_unit="us", strict=False, time_zone="UTC") for p in PATTERNS
    ]
    parsed = pl.select(pl.coalesce(*found, _since_1970(number)))
    return parsed.to_series()
