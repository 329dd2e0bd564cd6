"""Rows become votes or rejections: each column as the schema has it, each fault said once.

Only what the arena needs can condemn a row: its two models, its outcome, its counts and its
vote_id. A value of another column that cannot be read becomes null, and is noted as a doubt.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from arena.schema import OUTCOMES, REJECTED, VOTES
from arena.votes.faults import SHOWN, VotesError
from arena.votes.times import LAST_YEAR, in_utc

# No model's name is longer, and none is spread over lines: a quote went wrong there.
LONGEST = 500
CONTROL = r"[\x00-\x1f\x7f]"

# How spreadsheets, databases and libraries write that there is no value.
NOTHING = ("", "nan", "null", "none", "\\n", "na", "n/a", "<na>", "nat")

# The words that arenas and labelling tools have for an outcome, in lower case.
WORDS = {
    **dict.fromkeys(("a", "model_a", "left", "leftvote", "image_1", "image_a"), "a"),
    **dict.fromkeys(("b", "model_b", "right", "rightvote", "image_2", "image_b"), "b"),
    **dict.fromkeys(
        (
            "tie",
            "tievote",
            "tie (bothbad)",
            "both_bad",
            "bothbad",
            "bothbad_vote",
            "both_good",
            "bothgood_vote",
            "both",
            "neither",
            "equal",
        ),
        "tie",
    ),
}
NO_WORDS: Mapping[str, str] = {}

# A whole number above this has lost digits where it was stored as a float.
EXACT = 2.0**53
IDS = ("vote_id", "prompt_id", "rater", "image_a", "image_b")
COUNTS = ("votes_a", "votes_b", "votes_tie", "count")
MOST_VOTES = 10**9  # in one row; more is a mistake, or somebody's wish

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


class _Rows:
    """The rows of one frame while they are checked, and what is wrong with them so far."""

    def __init__(self, rows: pl.DataFrame, names: Mapping[str, str]) -> None:
        self.rows, self.names = rows, names
        self.bad = np.zeros(rows.height, bool)
        self.rejected: list[pl.DataFrame] = []
        self.doubts: list[pl.DataFrame] = []

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

    def reject(self, name: str, reason: str, where: np.ndarray) -> None:
        """Reject the rows where `where` (n,) holds; a row is rejected for its first fault."""
        fresh = where & ~self.bad
        if fresh.any():
            self.rejected.append(self._said(name, reason, fresh))
            self.bad |= fresh

    def doubt(self, name: str, reason: str, where: np.ndarray) -> None:
        """Note values that cannot be read."""
        if where.any():
            self.doubts.append(self._said(name, reason, where))


def check(
    rows: pl.DataFrame, names: Mapping[str, str], outcomes: Mapping[str, str] = NO_WORDS
) -> Checked:
    """Split rows into votes and rejections.

    rows: `row` and columns of `schema.VOTES` of any type, and `count`. names: what the file calls a
    column, for what is said of it. outcomes: further words for a, b and tie, in lower case.
    Raises VotesError for a column that holds neither text nor numbers.
    """
    for name, given_kind in rows.schema.items():
        if given_kind.is_nested() or given_kind == pl.Binary:
            called = names.get(name, name)
            raise VotesError(f"column {called} holds {given_kind}; it must hold text or numbers")
    found = _Rows(rows, names)
    columns: dict[str, pl.Series] = {}
    for name, kind in VOTES.items():
        if name not in rows.columns:
            continue
        given = rows[name]
        if name in ("model_a", "model_b"):
            columns[name] = _models(found, name, given)
        elif name == "created_at":
            columns[name] = in_utc(given)
            wrong = (columns[name].is_null() & ~_absent(given)).to_numpy()
            found.doubt(name, f"not a time before {LAST_YEAR}; the vote has none then", wrong)
        elif name in IDS:
            columns[name] = _ids(found, name, given)
        elif name not in ("outcome", *COUNTS):
            columns[name] = _text(given) if kind == pl.String else _flag(given)
    columns["outcome"] = _outcome(found, rows, columns, outcomes)
    columns |= _counts(found, rows, columns["outcome"])
    there = {name: columns[name] for name in VOTES if name in columns}
    votes = pl.DataFrame({"row": rows["row"].cast(pl.Int64)} | there)
    if found.bad.any():
        votes = votes.filter(pl.Series(~found.bad))
    empty = pl.DataFrame(schema=REJECTED)
    return Checked(votes, pl.concat([empty, *found.rejected]), pl.concat([empty, *found.doubts]))


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
        return _numbers(column)
    text = column.cast(pl.String).str.strip_chars()
    return text.to_frame().select(pl.when(~_absent(text)).then(text)).to_series()


def _numbers(column: pl.Series) -> pl.Series:
    """Return floats as text; a whole one is the integer that it was."""
    whole = column.is_finite() & (column == column.round()) & (column.abs() <= EXACT)
    texts = pl.select(
        pl.when(whole.fill_null(False))
        .then(column.cast(pl.Int64, strict=False).cast(pl.String))
        .when(column.is_not_nan())
        .then(column.cast(pl.String))
    )
    return texts.to_series()


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
        text = _numbers(column)
    else:
        text = _text(column)
        lost = pl.Series([False]).new_from_index(0, len(column))
        spelled = text.str.contains(r"^-?\d+(\.0*|(\.\d+)?[eE]\+?\d+)$").fill_null(False)
        if not column.dtype.is_integer() and spelled.any():
            number = text.cast(pl.Float64, strict=False)
            lost = spelled & (number.abs() > EXACT).fill_null(False)
            whole = _numbers(number)
            text = pl.select(pl.when(spelled).then(whole).otherwise(text)).to_series()
    if lost.any():
        (found.reject if name == "vote_id" else found.doubt)(name, LOST_DIGITS, lost.to_numpy())
        text = pl.select(pl.when(~lost).then(text)).to_series()
    return text


def coded(column: pl.Series) -> pl.Series:
    """Return a column of few distinct texts as pl.Enum of the texts that it has."""
    if isinstance(column.dtype, pl.Enum):
        return column
    text = _numbers(column) if column.dtype.is_float() else column.cast(pl.String)
    return text.cast(pl.Enum(text.drop_nulls().unique().sort()))


def categories(column: pl.Series) -> pl.Series:
    """Return the texts of an Enum column."""
    assert isinstance(column.dtype, pl.Enum)
    return column.dtype.categories


def recoded(column: pl.Series, names: pl.Series, kind: pl.Enum | None = None) -> pl.Series:
    """Return an Enum column with its k-th category replaced by the k-th of `names`, or by null.

    kind: the Enum to return, by default that of the names in use.
    """
    kind = kind or pl.Enum(names.drop_nulls().unique(maintain_order=True))
    if kind.categories.equals(names) and kind == column.dtype:
        return column
    place = {name: k for k, name in enumerate(kind.categories)}
    # polars codes an Enum by the smallest integer that holds its categories.
    width = np.uint8 if len(place) < 256 else np.uint16 if len(place) < 65536 else np.uint32
    code = np.array([place.get(name, 0) for name in names] or [0], width)
    codes = column.to_physical().fill_null(0).to_numpy()
    found = pl.Series(column.name, code[codes])
    known = names.is_not_null().to_numpy()
    if column.null_count() or not known.all():
        good = column.is_not_null() & pl.Series(known[codes] if len(known) else codes > 0)
        found = pl.select(pl.when(good).then(found)).to_series().alias(column.name)
    return found.cat.to(kind)


def _models(found: _Rows, name: str, column: pl.Series) -> pl.Series:
    """Return names of models, trimmed; empty, long and broken ones reject their rows."""
    column = coded(column)
    names = categories(column)
    bare = names.str.strip_chars()
    faults = {
        "empty": _absent(bare),
        f"longer than {LONGEST} bytes": bare.str.len_bytes() > LONGEST,
        "holds a control character": bare.str.contains(CONTROL),
    }
    wrong = {reason: where for reason, where in faults.items() if where.any()}
    for reason, where in wrong.items():
        texts = names.filter(where).implode()
        found.reject(name, reason, column.is_in(texts).fill_null(False).to_numpy())
    found.reject(name, "empty", column.is_null().to_numpy())
    unusable = pl.select(pl.any_horizontal(pl.lit(False), *faults.values())).to_series()
    clean = pl.select(pl.when(~unusable).then(bare)).to_series()
    return recoded(column, clean)


def _outcome(
    found: _Rows,
    rows: pl.DataFrame,
    columns: Mapping[str, pl.Series],
    outcomes: Mapping[str, str],
) -> pl.Series:
    """Return a, b or tie: by the words for them, or by the name of the model that won."""
    nothing = pl.Series([None], dtype=pl.String).new_from_index(0, rows.height)
    given = coded(rows["outcome"] if "outcome" in rows.columns else nothing)
    words = {**WORDS, **outcomes}

    bare = (name.strip().lower() for name in categories(given))
    meant = pl.Series([words.get(name) for name in bare], dtype=pl.String)
    outcome = recoded(given, meant, pl.Enum(OUTCOMES))
    unknown = outcome.is_null()
    if unknown.any():
        said, a, b = (s.cast(pl.String) for s in (given, columns["model_a"], columns["model_b"]))
        said = said.str.strip_chars()
        by_name = (
            pl.when(unknown & (said == a) & (a != b))
            .then(pl.lit("a"))
            .when(unknown & (said == b) & (a != b))
            .then(pl.lit("b"))
        )
        outcome = pl.select(by_name.otherwise(outcome.cast(pl.String))).to_series()
        outcome = outcome.cast(pl.Enum(OUTCOMES))
        told = "not a, b or tie" + ("" if not outcomes else f", nor one of {', '.join(outcomes)}")
        found.reject("outcome", told, outcome.is_null().to_numpy())
    return outcome.alias("outcome")


def _counts(found: _Rows, rows: pl.DataFrame, outcome: pl.Series) -> dict[str, pl.Series]:
    """Return votes_a, votes_b and votes_tie: null in a row that is one vote."""
    there = [name for name in COUNTS if name in rows.columns]
    if not there:
        return {}
    empty = pl.Series([None], dtype=pl.Int64).new_from_index(0, rows.height)
    sides = dict.fromkeys(COUNTS[:3], empty)
    numbers = {name: _whole(found, name, rows[name]) for name in there}
    if "count" in numbers:
        several = numbers["count"]
        found.reject("count", "0 votes", (several == 0).fill_null(False).to_numpy())
        for name, side in zip(COUNTS[:3], OUTCOMES, strict=True):
            mine = pl.when(outcome == side).then(several).otherwise(0)
            sides[name] = pl.select(pl.when(several > 1).then(mine)).to_series()
    given = [name for name in there if name != "count"]
    if given:
        each = {name: numbers.get(name, empty) for name in COUNTS[:3]}
        known = pl.select(pl.any_horizontal(numbers[name].is_not_null() for name in given))
        total = pl.select(pl.sum_horizontal(*each.values())).to_series()
        found.reject(given[0], "0 votes", (known.to_series() & (total == 0)).to_numpy())
        a, b = (each[name].fill_null(0) for name in COUNTS[:2])
        against = ((outcome == "a") & (b > a)) | ((outcome == "b") & (a > b))
        against = (against & known.to_series()).fill_null(False)
        found.doubt("outcome", "the counts say otherwise; they are left out", against.to_numpy())
        kept = known.to_series() & ~against
        for name in COUNTS[:3]:
            counted = pl.when(kept).then(each[name].fill_null(0)).otherwise(sides[name])
            sides[name] = pl.select(counted).to_series()
    return {name: column.alias(name) for name, column in sides.items()}


def _whole(found: _Rows, name: str, column: pl.Series) -> pl.Series:
    """Return a count, null where it is none."""
    number = column.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
    good = ((number == number.round()) & number.is_between(0, MOST_VOTES)).fill_null(False)
    wrong = (~good & ~_absent(column)).to_numpy()
    found.doubt(name, f"not a whole number from 0 to {MOST_VOTES:,}; one vote then", wrong)
    return pl.select(pl.when(good).then(number.cast(pl.Int64, strict=False))).to_series()
