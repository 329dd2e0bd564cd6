"""One meaning, however it is spelled: who won, when, and that nothing is said.

Who won: the words that arenas and labelling tools have for it, or the winner's own name. When: what
ISO 8601, databases, pandas and spreadsheets write.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import polars as pl

from arena.schema import OUTCOMES

# How spreadsheets, databases and libraries write that there is no value.
NOTHING = (
    "", "nan", "-nan", "null", "(null)", "none", "nil", "\\n", "na", "n/a", "#na", "#n/a", "<na>",
    "nat", "undefined",
)  # fmt: skip

# As `plain` spells them.
THINGS = ("", "model", "image", "option", "response", "output")
WORDS = {
    **dict.fromkeys([*(f"{each}a" for each in THINGS), "model1", "image1", "left"], "a"),
    **dict.fromkeys([*(f"{each}b" for each in THINGS), "model2", "image2", "right"], "b"),
    **dict.fromkeys(("a>b", "a>>b", "b<a", "b<<a"), "a"),
    **dict.fromkeys(("b>a", "b>>a", "a<b", "a<<b"), "b"),
    **dict.fromkeys(
        (
            *("tie", "tied", "equal", "draw", "same", "aboutthesame", "similar"),
            *("nopreference", "nodifference", "a=b"),
        ),
        "tie",
    ),
}
# What may follow: "A is better", "model_a wins", leftvote.
ENDING = re.compile(r"(isbetter|better|wins?|won|vote)$")
# "tie (bothbad)", "both are good", "neither is good", "equally bad", a judge's "inconsistent".
ALIKE = re.compile(
    r"(tie)?(both|neither|equally)(are|is|equally)*(good|bad|okay|ok|fine|poor|equal)?|tieinconsistent"
)
SIDES = (("model_a", "model_b"), ("image_a", "image_b"))

# Later than this it is a typing error. Nearer futures pass: what is accepted must not depend on
# the day on which the same file is read.
LAST_YEAR = 2100
FIRST, END = datetime(1900, 1, 1, tzinfo=UTC), datetime(LAST_YEAR, 1, 1, tzinfo=UTC)

# Numbers since 1970 are told apart by their size: each unit of these is 1000 of the next, and the
# years 1973 to 5138 in seconds are below 10^11.
SECONDS, MILLISECONDS, MICROSECONDS = 1e11, 1e14, 1e17

# Days since 1900 as spreadsheets count them, from 2000 to 2100; as seconds all are of one day.
DAYS, DAYS_TO_1970 = (36526, 73050), 25569

# One spelling for the patterns: with T, with seconds' point, with a zone as +hhmm. A name of the
# zone or the day that stands beside them says nothing more.
RESPELLED = (
    (r"\s*(\[[\w/+-]+\]|\([\w ]+\))$", ""),
    (r"(?i)^(mon|tue|wed|thu|fri|sat|sun),?\s+", ""),
    (r"(?i)(utc|gmt)([+-]\d)", "${2}"),
    (r"^([A-Z][a-z]{2}) +(\d\d?) (\d{4}) ", "${2} ${1} ${3} "),  # as JavaScript shows it
    (r"^([A-Z][a-z]{2}) +(\d\d?) ([\d:]+) (\d{4})$", "${2} ${1} ${4} ${3}Z"),  # and C
    (r"^(\d{4})/(\d\d?)/(\d\d?)", "${1}-${2}-${3}"),
    (r"^(\d{4}-\d\d?-\d\d?)$", "${1}T00:00"),
    (r"^(\d{4}-\d\d?-\d\d?)(\s+|t)", "${1}T"),
    (r"(:\d\d),(\d)", "${1}.${2}"),
    (r"(?i)([+-]\d\d:?\d\d)\s*(z|utc|gmt)$", "${1}"),
    (r"(?i)\s*(z|utc|gmt)$", "+0000"),
    (r"(T\d\d?:\d\d.*)\s*([+-]\d\d)(?::?(\d\d))?$", "${1}${2}${3}"),
    (r"([+-]\d\d)$", "${1}00"),  # it also ends a bare date, which has its time by now
    (r"(T[\d:.]+)$", "${1}+0000"),
)
# The last two are ISO 8601 without marks, and RFC 2822 as mail and web servers write it.
PATTERNS = (
    *("%Y-%m-%dT%H:%M:%S%.f%z", "%Y-%m-%dT%H:%M%z", "%Y%m%dT%H%M%S%z"),
    "%d %b %Y %H:%M:%S%z",
)


def plain(word: str) -> str:
    """Return an outcome's word without case, blanks, _, - and brackets; 1.0 is 1."""
    bare = re.sub(r"[\s_()\[\]]+|(?<=[a-z])-(?=[a-z])", "", word.lower())
    return re.sub(r"^(-?\d+)\.0+$", r"\1", bare) or word.strip()


def meaning(word: str) -> str | None:
    """Return a, b or tie for an outcome's word as `plain` spells it, None for an unknown one."""
    bare = ENDING.sub("", word)
    alike = ALIKE.fullmatch(word) or ALIKE.fullmatch(bare)
    return "tie" if alike else WORDS.get(word) or WORDS.get(bare)


def recoded(name: str, texts: Sequence[str | None] | pl.Series, kind: pl.Enum) -> pl.Expr:
    """Return a column of pl.Enum in another one: the k-th of its categories as the k-th text."""
    return pl.lit(pl.Series(texts, dtype=kind)).gather(pl.col(name).to_physical().cast(pl.UInt32))


def outcome_of(
    held: pl.DataType, sides: Mapping[str, pl.Expr], outcomes: Mapping[str, str]
) -> tuple[pl.Expr, pl.Expr | None]:
    """Return (a, b, tie or null as pl.Enum, whether a word may be a side or the other's name).

    held: the pl.Enum of the words in the column `outcome`. sides: models and images, whose names
    may stand for a side. outcomes: further words as `plain` spells them. The second is None where
    every word is settled: it means the same in every row, whatever the models are called.
    """
    assert isinstance(held, pl.Enum)
    kind, column, texts = pl.Enum(OUTCOMES), pl.col("outcome"), held.categories
    if not outcomes and set(texts) <= set(OUTCOMES):
        return recoded("outcome", texts, kind), None
    spelled = {word: plain(word) for word in texts}
    meant = {word: outcomes.get(s) or meaning(s) for word, s in spelled.items()}
    by_word = recoded("outcome", list(meant.values()), kind)
    unsettled = [word for word in texts if word not in OUTCOMES and spelled[word] not in outcomes]
    if not unsettled:
        return by_word, None
    said, wins = column.cast(pl.String).str.strip_chars(), []
    for a, b in SIDES:
        if a in sides and b in sides:
            is_a, is_b = (said == sides[side].cast(pl.String) for side in (a, b))
            wins.append(
                pl.when(is_a & ~is_b).then(pl.lit("a")).when(is_b & ~is_a).then(pl.lit("b"))
            )
    by_name = pl.when(column.is_in(unsettled)).then(pl.coalesce(wins)).cast(kind)
    return pl.coalesce(by_word, by_name), by_word != by_name


def in_utc(column: pl.Series) -> pl.Series:
    """Return times in UTC, microseconds; null where a value is none, or outside 1900 to 2100.

    Takes a date or a time (without a zone it is UTC), numbers since 1970 in seconds, milli-, micro-
    or nanoseconds, a spreadsheet's days, and text: a number, or ISO 8601 with `T` or a blank, with
    or without seconds, with a zone as `Z`, `UTC`, `+00`, `+0000` or `+00:00`, or without, and what
    mail, JavaScript and C write.
    """
    if column.dtype == pl.Date:
        column = column.cast(pl.Datetime("us"))
    if isinstance(column.dtype, pl.Datetime):
        aware = column if column.dtype.time_zone else column.dt.replace_time_zone("UTC")
        found = aware.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    else:
        text = column.cast(pl.String).str.strip_chars()
        number = (column if column.dtype.is_numeric() else text).cast(pl.Float64, strict=False)
        size = number.abs()
        micro = (
            pl.when(size.is_between(*DAYS))
            .then((number - DAYS_TO_1970) * 86_400e6)
            .when(size < SECONDS)
            .then(number * 1e6)
            .when(size < MILLISECONDS)
            .then(number * 1e3)
            .when(size < MICROSECONDS)
            .then(number)
            .when(size < 1e20)
            .then(number / 1e3)
        )
        whole = pl.select(micro).to_series().round().cast(pl.Int64, strict=False)
        found = whole.cast(pl.Datetime("us", "UTC"))
        if number.null_count() > text.null_count():
            for pattern, spelling in RESPELLED:
                text = text.str.replace(pattern, spelling)
            parsed = (
                text.str.to_datetime(each, time_unit="us", strict=False, time_zone="UTC")
                for each in PATTERNS
            )
            found = pl.select(pl.coalesce(*parsed, found)).to_series()
    good = (found >= FIRST) & (found < END)
    return found if good.all() else pl.select(pl.when(good).then(found)).to_series()
