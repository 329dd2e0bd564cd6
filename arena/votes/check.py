"""Rows become votes or rejections: each column as the schema has it, each fault said once.

Only what the arena needs can condemn a row: its two models, its outcome, its counts and its
vote_id. A value of another column that cannot be read becomes null, and is noted as a doubt.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from arena.schema import OUTCOMES, REJECTED, REQUIRED, VOTES
from arena.votes.coding import EXACT, as_texts, categories, coded, recoded
from arena.votes.faults import SHOWN, VotesError
from arena.votes.limits import LONGEST_NAME, MOST_MODELS, MOST_VOTES
from arena.votes.outcomes import NO_WORDS, outcome_of
from arena.votes.text_tables import as_text
from arena.votes.times import LAST_YEAR, in_utc

# No model's name is spread over lines: a quote went wrong there.
CONTROL = r"[\x00-\x1f\x7f]"

# How spreadsheets, databases and libraries write that there is no value.
NOTHING = ("", "nan", "null", "none", "\\n", "na", "n/a", "#n/a", "<na>", "nat")

IDS = ("vote_id", "prompt_id", "rater", "image_a", "image_b")
COUNTS = ("votes_a", "votes_b", "votes_tie", "count")
NONE = pl.DataFrame(schema=REJECTED)

UNCLEAR = "may be a side, and is the other model's name; say which by --outcomes"
# A float as programs spell it (12.0, 1.7e18, 1.7E+18, 1e+16). Not 129e1327: that is somebody's
# hexadecimal id, of which one in a thousand has a single e among digits.
FLOAT = r"^-?(\d+\.0*|\d\.\d+[eE]\+?\d{1,3}|\d[eE]\+\d{1,3})$"
LOST_DIGITS = "a float above 2^53 has lost digits; export ids as text or as whole numbers"


@dataclass(frozen=True)
class Checked:
    """Rows after the check; every row is in votes or in rejected.

    votes: `row` and those columns of `schema.VOTES` that the rows have, models and outcome as
    pl.Enum. rejected, doubts: `schema.REJECTED` without a file; a doubt is a value that became null
    while its vote stayed.
    """

    votes: pl.DataFrame
    rejected: pl.DataFrame
    doubts: pl.DataFrame


@dataclass
class _Rows:
    """The rows of one frame while they are checked, and what is wrong with them so far."""

    rows: pl.DataFrame
    names: Mapping[str, str]
    bad: np.ndarray
    rejected: list[pl.DataFrame] = field(default_factory=list)
    doubts: list[pl.DataFrame] = field(default_factory=list)

    def _said(self, name: str, reason: str, where: np.ndarray) -> pl.DataFrame:
        value = pl.lit(None, pl.String)
        if name in self.rows.columns:
            value = pl.col(name).cast(pl.String).str.slice(0, SHOWN)
        return self.rows.filter(pl.Series(where)).select(
            pl.lit("").alias("file"),
            pl.col("row").cast(pl.Int64),
            pl.lit(self.names.get(name, name)).alias("column"),
            pl.lit(reason).alias("reason"),
            value.alias("value"),
        )

    def reject(self, name: str, reason: str, where: pl.Series) -> None:
        """Reject the rows where `where` (n,) holds; a row is rejected for its first fault."""
        fresh = where.fill_null(False).to_numpy() & ~self.bad
        if fresh.any():
            self.rejected.append(self._said(name, reason, fresh))
            self.bad = self.bad | fresh

    def doubt(self, name: str, reason: str, where: pl.Series) -> None:
        """Note values that cannot be read."""
        if where.any():
            self.doubts.append(self._said(name, reason, where.fill_null(False).to_numpy()))


def check(
    rows: pl.DataFrame, names: Mapping[str, str], outcomes: Mapping[str, str] = NO_WORDS
) -> Checked:
    """Split rows into votes and rejections.

    rows: `row` and columns of `schema.VOTES` of any type, and `count`. names: what the file calls a
    column, for what is said of it. outcomes: further words for a, b and tie, by `plain`.
    Raises VotesError where models or outcome hold neither text nor numbers, or are too many.
    """
    found = _Rows(rows, names, np.zeros(rows.height, bool))
    for name, held in rows.schema.items():
        if held.is_nested() or held == pl.Binary:
            rows = _flat(found, name)
    columns: dict[str, pl.Series] = {}
    for name, kind in VOTES.items():
        if name not in rows.columns:
            continue
        given = rows[name]
        if name in ("model_a", "model_b"):
            if not isinstance(given.dtype, pl.Enum):
                given = coded(given)
            texts: pl.Series = given.dtype.categories  # type: ignore[attr-defined]
            if len(texts) > MOST_MODELS:
                raise VotesError(f"{len(texts):,} models, more than {MOST_MODELS:,}")
            usable = (texts == texts.str.strip_chars()) & (texts.str.len_bytes() <= LONGEST_NAME)
            usable &= ~texts.str.contains(CONTROL) & ~texts.str.to_lowercase().is_in(NOTHING)
            clean = usable.all() and not given.null_count()
            columns[name] = given if clean else _models(found, name, given)
        elif name == "created_at":
            columns[name] = in_utc(given)
            wrong = columns[name].is_null() & ~_absent(given)
            found.doubt(name, f"not a time before {LAST_YEAR}; the vote has none then", wrong)
        elif name in IDS:
            columns[name] = _ids(found, name, given)
        elif name not in ("outcome", *COUNTS):
            columns[name] = _text(given) if kind == pl.String else _flag(given)
    given = rows.get_column("outcome", default=pl.Series([None] * rows.height, dtype=pl.String))
    if isinstance(given.dtype, pl.Enum | pl.String):
        columns["outcome"] = given.cast(pl.Enum(OUTCOMES), strict=False)
    if "outcome" not in columns or columns["outcome"].null_count():
        columns["outcome"], unclear = outcome_of(given, columns, outcomes)
        found.reject("outcome", UNCLEAR, unclear)
        told = "not a, b or tie" + ("" if not outcomes else f", nor one of {', '.join(outcomes)}")
        found.reject("outcome", told, columns["outcome"].is_null())
    if not rows.schema.keys().isdisjoint(COUNTS):
        columns |= _counts(found, rows, columns["outcome"])
    columns = {"row": rows["row"].cast(pl.Int64)} | {n: columns[n] for n in VOTES if n in columns}
    votes = pl.DataFrame(columns)
    if found.bad.any():
        votes = votes.filter(pl.Series(~found.bad))
    return Checked(votes, pl.concat([NONE, *found.rejected]), pl.concat([NONE, *found.doubts]))


def _flat(found: _Rows, name: str) -> pl.DataFrame:
    """Return the rows with a column's nested values as JSON; bytes are no text, and null."""
    column = found.rows[name]
    if name in REQUIRED:
        called = found.names.get(name, name)
        raise VotesError(f"column {called} holds {column.dtype}; it must hold text or numbers")
    is_bytes = column.dtype == pl.Binary
    texts = [None if is_bytes else as_text(value) for value in column.to_list()]
    found.rows = found.rows.with_columns(pl.Series(name, texts, dtype=pl.String))
    if is_bytes:
        found.doubt(name, "bytes, not text", column.is_not_null())
    return found.rows


def _absent(column: pl.Series) -> pl.Series:
    """Return where there is no value: null, NaN, or a word for nothing."""
    if column.dtype.is_float():
        return column.is_null() | column.is_nan().fill_null(True)
    if column.dtype == pl.String:
        return column.is_null() | _is_nothing(column).fill_null(True)
    return column.is_null()


def _is_nothing(text: pl.Series) -> pl.Series:
    bare = text.str.strip_chars()
    # The words are short: most texts are told by their length.
    short = bare.str.len_bytes() <= 4
    if not short.any():
        return short
    return short & bare.str.to_lowercase().is_in(NOTHING)


def _text(column: pl.Series) -> pl.Series:
    """Return values as trimmed text; what stands for nothing is null."""
    if column.dtype.is_float():
        return as_texts(column)
    text = column.cast(pl.String).str.strip_chars()
    return text.to_frame().select(pl.when(~_absent(text)).then(text)).to_series()


def _flag(column: pl.Series) -> pl.Series:
    """Return yes or no, null where neither is said."""
    if column.dtype == pl.Boolean:
        return column
    text = column.cast(pl.String).str.to_lowercase()
    yes, no = text.is_in(["true", "1", "yes", "t"]), text.is_in(["false", "0", "no", "f"])
    return pl.select(pl.when(yes).then(True).when(no).then(False).otherwise(None)).to_series()


def _ids(found: _Rows, name: str, column: pl.Series) -> pl.Series:
    """Return ids as text; a whole float is the integer that it was, also where a csv spells it."""
    if column.dtype.is_float():
        lost = (column.abs() > EXACT).fill_null(False)
        text = as_texts(column)
    else:
        text = _text(column)
        lost = pl.Series([False]).new_from_index(0, len(column))
        spelled = text.str.contains(FLOAT).fill_null(False)
        if not column.dtype.is_integer() and spelled.any():
            number = text.cast(pl.Float64, strict=False)
            lost = spelled & (number.abs() > EXACT).fill_null(False)
            whole = as_texts(number)
            text = pl.select(pl.when(spelled).then(whole).otherwise(text)).to_series()
    if lost.any():
        (found.reject if name == "vote_id" else found.doubt)(name, LOST_DIGITS, lost)
        text = pl.select(pl.when(~lost).then(text)).to_series()
    return text


def _models(found: _Rows, name: str, column: pl.Series) -> pl.Series:
    """Return names of models, trimmed; empty, long and broken ones reject their rows."""
    names = categories(column)
    bare = names.str.strip_chars()
    faults = {
        "empty": _absent(bare),
        f"longer than {LONGEST_NAME} bytes": bare.str.len_bytes() > LONGEST_NAME,
        "holds a control character": bare.str.contains(CONTROL),
    }
    for reason, where in faults.items():
        found.reject(name, reason, column.is_in(names.filter(where).implode()))
    found.reject(name, "empty", column.is_null())
    unusable = pl.select(pl.any_horizontal(pl.lit(False), *faults.values())).to_series()
    return recoded(column, pl.select(pl.when(~unusable).then(bare)).to_series())


def _counts(found: _Rows, rows: pl.DataFrame, outcome: pl.Series) -> dict[str, pl.Series]:
    """Return votes_a, votes_b and votes_tie: null in a row that is one vote."""
    there = [name for name in COUNTS if name in rows.columns]
    empty = pl.Series([None], dtype=pl.Int64).new_from_index(0, rows.height)
    sides = dict.fromkeys(COUNTS[:3], empty)
    numbers = {name: _whole(found, name, rows[name]) for name in there}
    if "count" in numbers:
        several = numbers["count"]
        found.reject("count", "0 votes", several == 0)
        for name, side in zip(COUNTS[:3], OUTCOMES, strict=True):
            mine = pl.when(outcome == side).then(several).otherwise(0)
            sides[name] = pl.select(pl.when(several > 1).then(mine)).to_series()
    given = [name for name in there if name != "count"]
    if given:
        each = {name: numbers.get(name, empty) for name in COUNTS[:3]}
        known = pl.select(pl.any_horizontal(numbers[name].is_not_null() for name in given))
        total = pl.select(pl.sum_horizontal(*each.values())).to_series()
        found.reject(given[0], "0 votes", known.to_series() & (total == 0))
        a, b = (each[name].fill_null(0) for name in COUNTS[:2])
        against = ((outcome == "a") & (b > a)) | ((outcome == "b") & (a > b))
        against = (against & known.to_series()).fill_null(False)
        found.doubt("outcome", "the counts say otherwise; they are left out", against)
        kept = known.to_series() & ~against
        for name in COUNTS[:3]:
            counted = pl.when(kept).then(each[name].fill_null(0)).otherwise(sides[name])
            sides[name] = pl.select(counted).to_series()
    return {name: column.alias(name) for name, column in sides.items()}


def _whole(found: _Rows, name: str, column: pl.Series) -> pl.Series:
    """Return a count, null where it is none."""
    number = column.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
    good = ((number == number.round()) & number.is_between(0, MOST_VOTES)).fill_null(False)
    wrong = ~good & ~_absent(column)
    found.doubt(name, f"not a whole number from 0 to {MOST_VOTES:,}; one vote then", wrong)
    return pl.select(pl.when(good).then(number.cast(pl.Int64, strict=False))).to_series()
