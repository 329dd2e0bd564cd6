"""Rows become votes or rejections: each column as the schema has it, each fault said once.

Only what the arena needs can condemn a row: its two models, its outcome, its counts and its
vote_id. A value of another column that cannot be read becomes null, and is noted as a doubt.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from arena.schema import OUTCOMES, REJECTED, REQUIRED, VOTES
from arena.votes.faults import SHOWN, VotesError
from arena.votes.limits import LONGEST_NAME, MOST_MODELS, MOST_VOTES
from arena.votes.spellings import LAST_YEAR, NOTHING, in_utc, outcome_of, recoded
from arena.votes.text_tables import as_text

# No model's name is spread over lines: a quote went wrong there.
CONTROL = r"[\x00-\x1f\x7f]"

IDS = ("vote_id", "prompt_id", "rater", "image_a", "image_b")
COUNTS = ("votes_a", "votes_b", "votes_tie")
NONE = pl.DataFrame(schema=REJECTED)

UNCLEAR = "may be a side, and is the other model's name; say which by --outcomes"
NO_OUTCOME = "not a, b or tie"
AGAINST = "the counts say otherwise; they are left out"
NO_COUNT = f"not a whole number from 0 to {MOST_VOTES:,}; one vote then"
NO_TIME = f"not a time before {LAST_YEAR}; the vote has none then"
# A whole number above this has lost digits where it was stored as a float.
EXACT = 2.0**53
# A float as programs spell it (12.0, 1.7e18, 1.7E+18, 1e+16). Not 129e1327: that is somebody's
# hexadecimal id, of which one in a thousand has a single e among digits.
FLOAT = r"^-?(\d+\.0*|\d\.\d+[eE]\+?\d{1,3}|\d[eE]\+\d{1,3})$"
LOST_DIGITS = "a float above 2^53 has lost digits; export ids as text or as whole numbers"

Faults = list[tuple[str, str, pl.Expr]]  # column, reason, where


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


def check(
    rows: pl.DataFrame, names: Mapping[str, str], outcomes: Mapping[str, str] | None = None
) -> Checked:
    """Split rows into votes and rejections.

    rows: `row` and columns of `schema.VOTES` of any type, and `count`. names: what the file calls a
    column, for what is said of it. outcomes: further words for a, b and tie, by `plain`.
    Raises VotesError where models or outcome hold neither text nor numbers, or are too many.
    """
    faults: Faults = []
    doubts: Faults = []
    if any(not isinstance(rows.schema.get(name), pl.Enum) for name in REQUIRED) or any(
        held.is_nested() or held == pl.Binary for held in rows.dtypes
    ):
        rows = _flat(rows, names, doubts)
    columns: dict[str, pl.Expr] = {}
    for name, kind in VOTES.items():
        if name not in rows.columns or name in ("outcome", *COUNTS):
            continue
        held, given = rows.schema[name], pl.col(name)
        if name in REQUIRED:
            columns[name] = _models(name, held, faults)
        elif name == "created_at":
            columns[name] = pl.lit(in_utc(rows[name]))
            there = pl.lit(_text(rows[name])) if held == pl.String or held.is_float() else given
            doubts.append((name, NO_TIME, columns[name].is_null() & there.is_not_null()))
        elif kind == pl.Boolean:
            text = given.cast(pl.String).str.to_lowercase()
            yes, no = text.is_in(["true", "1", "yes", "t"]), text.is_in(["false", "0", "no", "f"])
            columns[name] = pl.when(yes).then(True).when(no).then(False)
        else:
            lost = faults if name == "vote_id" else doubts
            columns[name] = pl.lit(_text(rows[name], lost if name in IDS else None))
    columns["outcome"], unclear = outcome_of(rows.schema["outcome"], columns, outcomes or {})
    if unclear is not None:
        faults.append(("outcome", UNCLEAR, unclear))
    told = NO_OUTCOME + (f", nor one of {', '.join(outcomes)}" if outcomes else "")
    faults.append(("outcome", told, columns["outcome"].is_null()))
    if not rows.schema.keys().isdisjoint((*COUNTS, "count")):
        columns |= _counts(rows, columns["outcome"], faults, doubts)
    order = {"row": pl.col("row").cast(pl.Int64)} | {n: columns[n] for n in VOTES if n in columns}
    wrong = {f"{k} wrong": where for k, (*_, where) in enumerate(faults + doubts)}
    table = rows.select(**order, **wrong)
    rejected, doubted = [NONE], [NONE]
    bad = pl.Series([False]).new_from_index(0, rows.height)
    for k, (name, reason, _) in enumerate(faults + doubts):
        where = table[f"{k} wrong"].fill_null(False)
        if not where.any():
            continue
        if k < len(faults):
            # A row is rejected for its first fault.
            where, bad = where & ~bad, bad | where
        value = pl.col(name).cast(pl.String).str.slice(0, SHOWN)
        noted = rows.filter(where).select(
            *(pl.lit("").alias("file"), pl.col("row").cast(pl.Int64)),
            *(pl.lit(names.get(name, name)).alias("column"), pl.lit(reason).alias("reason")),
            (value if name in rows.columns else pl.lit(None, pl.String)).alias("value"),
        )
        (rejected if k < len(faults) else doubted).append(noted)
    votes = table.select(*order)
    votes = votes.filter(~bad) if bad.any() else votes
    return Checked(votes, pl.concat(rejected), pl.concat(doubted))


def _flat(rows: pl.DataFrame, names: Mapping[str, str], doubts: Faults) -> pl.DataFrame:
    """Return the rows with nested values as JSON, bytes as null, models and outcome as pl.Enum."""
    for name, held in rows.schema.items():
        if name in REQUIRED and (held.is_nested() or held == pl.Binary):
            called = names.get(name, name)
            raise VotesError(f"column {called} holds {held}; it must hold text or numbers")
        if held == pl.Binary:
            there = rows[name].is_not_null()
            doubts.append((name, "bytes, not text", pl.lit(there)))
            rows = rows.with_columns(pl.lit(None, pl.String).alias(name))
        elif held.is_nested():
            texts = [as_text(value) for value in rows[name].to_list()]
            rows = rows.with_columns(pl.Series(name, texts, dtype=pl.String))
    absent = [pl.lit(None, pl.String).alias(n) for n in REQUIRED if n not in rows.columns]
    rows = rows.with_columns(absent)  # every row is rejected for it
    for name in REQUIRED:
        held = rows.schema[name]
        if not isinstance(held, pl.Enum):
            # Outcomes and models are trimmed later: a rejection shows them as they are.
            column = _text(rows[name]) if held.is_float() else rows[name].cast(pl.String)
            kind = pl.Enum(column.drop_nulls().unique().sort())
            rows = rows.with_columns(column.cast(kind).alias(name))
    return rows


def _text(given: pl.Series, lost: Faults | None = None) -> pl.Series:
    """Return values as trimmed text; what stands for nothing is null, a whole float an integer.

    lost: of a column of ids, where it is said that an id has lost digits; there a float that is
    spelled as text is the integer that it was, too.
    """
    held, text, number = given.dtype, given, given
    if not held.is_float():
        text = given.cast(pl.String).str.strip_chars()
        # The words for nothing are short: most texts are told by their length.
        short = (text.str.len_bytes() <= max(map(len, NOTHING))).fill_null(False)
        if short.any():
            nothing = short & text.str.to_lowercase().is_in(NOTHING).fill_null(False)
            text = pl.select(pl.when(~nothing).then(text)).to_series()
        if lost is None or held.is_integer():
            return text
        spelled = text.str.contains(FLOAT).fill_null(False)
        if not spelled.any():
            return text
        number = pl.select(pl.when(spelled).then(text)).to_series().cast(pl.Float64, strict=False)
    whole = number.is_finite() & (number == number.round()) & (number.abs() <= EXACT)
    integer = pl.when(whole).then(number.cast(pl.Int64, strict=False).cast(pl.String))
    spelled_out = integer.when(number.is_not_nan()).then(number.cast(pl.String))
    gone = (number.abs() > EXACT).fill_null(False) & (lost is not None)
    if lost is not None:
        lost.append((given.name, LOST_DIGITS, pl.lit(gone)))
    is_text = number.is_null() & (not held.is_float())
    chosen = pl.when(gone).then(None).when(is_text).then(text.cast(pl.String))
    return pl.select(chosen.otherwise(spelled_out)).to_series()


def _models(name: str, held: pl.DataType, faults: Faults) -> pl.Expr:
    """Return names of models, trimmed; empty, long and broken ones reject their rows.

    Raises VotesError where they are too many.
    """
    assert isinstance(held, pl.Enum)
    names = held.categories
    if len(names) > MOST_MODELS:
        raise VotesError(f"{len(names):,} models, more than {MOST_MODELS:,}")
    bare = names.str.strip_chars()
    reasons = {
        "empty": bare.str.to_lowercase().is_in(NOTHING),
        f"longer than {LONGEST_NAME} bytes": bare.str.len_bytes() > LONGEST_NAME,
        "holds a control character": bare.str.contains(CONTROL),
    }
    usable, given = pl.Series([True]).new_from_index(0, len(names)), pl.col(name)
    for reason, where in reasons.items():
        usable &= ~where
        if where.any():
            faults.append((name, reason, given.is_in(names.filter(where).to_list())))
    faults.append((name, "empty", given.is_null()))
    if usable.all() and bare.equals(names):
        return given
    known = [text if good else None for text, good in zip(bare, usable, strict=True)]
    return recoded(name, known, pl.Enum(list(dict.fromkeys(filter(None, known)))))


def _counts(
    rows: pl.DataFrame, outcome: pl.Expr, faults: Faults, doubts: Faults
) -> dict[str, pl.Expr]:
    """Return votes_a, votes_b and votes_tie: null in a row that is one vote."""
    numbers: dict[str, pl.Expr] = {}
    for name in [each for each in (*COUNTS, "count") if each in rows.columns]:
        number = pl.col(name).cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
        good = ((number == number.round()) & number.is_between(0, MOST_VOTES)).fill_null(False)
        doubts.append((name, NO_COUNT, ~good & pl.lit(_text(rows[name])).is_not_null()))
        numbers[name] = pl.when(good).then(number).cast(pl.Int64, strict=False)
    sides: dict[str, pl.Expr] = dict.fromkeys(COUNTS, pl.lit(None, pl.Int64))
    if "count" in numbers:
        several = numbers.pop("count")
        faults.append(("count", "0 votes", several == 0))
        for name, side in zip(COUNTS, OUTCOMES, strict=True):
            mine = pl.when(outcome == side).then(several).otherwise(0)
            sides[name] = pl.when(several > 1).then(mine)
    if numbers:
        known = pl.any_horizontal(number.is_not_null() for number in numbers.values())
        none = known & (pl.sum_horizontal(numbers.values()) == 0)
        faults.append((next(iter(numbers)), "0 votes", none))
        each = {name: numbers.get(name, pl.lit(0)).fill_null(0) for name in COUNTS}
        a, b = each["votes_a"], each["votes_b"]
        against = known & (((outcome == "a") & (b > a)) | ((outcome == "b") & (a > b)))
        against = against.fill_null(False)
        doubts.append(("outcome", AGAINST, against))
        for name in COUNTS:
            counted = pl.when(known & ~against).then(each[name]).otherwise(sides[name])
            sides[name] = counted.cast(pl.Int64)
    return sides
