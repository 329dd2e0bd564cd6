"""Who won: the words that arenas and labelling tools have for it, or the winner's own name."""

import re
from collections.abc import Mapping

import polars as pl

from arena.schema import OUTCOMES
from arena.votes.coding import categories, coded, recoded

# As `plain` spells them.
WORDS = {
    **dict.fromkeys(("a", "modela", "imagea", "model1", "image1", "left", "leftvote"), "a"),
    **dict.fromkeys(("b", "modelb", "imageb", "model2", "image2", "right", "rightvote"), "b"),
    **dict.fromkeys(
        (
            *("tie", "tievote", "tiebothbad", "tiebothgood", "bothbad", "bothbadvote", "bothgood"),
            *("bothgoodvote", "both", "neither", "equal", "draw", "same"),
        ),
        "tie",
    ),
}
NO_WORDS: Mapping[str, str] = {}
SIDES = ("model_a", "model_b", "image_a", "image_b")


def plain(word: str) -> str:
    """Return an outcome's word without case, blanks, _ and brackets; 1.0 is 1."""
    bare = re.sub(r"[\s_()]+", "", word.lower())
    return re.sub(r"^(-?\d+)\.0+$", r"\1", bare) or word.strip()


def outcome_of(
    given: pl.Series, columns: Mapping[str, pl.Series], outcomes: Mapping[str, str] = NO_WORDS
) -> tuple[pl.Series, pl.Series]:
    """Return (a, b, tie or null as pl.Enum, whether a word may be a side or the other's name).

    columns: models and images (n,), whose names may stand for a side. outcomes: further words.
    """
    given = coded(given)
    words = {**WORDS, **outcomes}
    texts = categories(given)
    meant = pl.Series([words.get(plain(name)) for name in texts], dtype=pl.String)
    outcome = recoded(given, meant, pl.Enum(OUTCOMES)).alias("outcome")
    # A word that is settled means the same in every row, whatever the models are called.
    settled = {*OUTCOMES, *(name for name in texts if plain(name) in outcomes)}
    open_texts = texts.filter(~texts.is_in(settled))
    if open_texts.is_empty() and not outcome.null_count():
        return outcome, pl.Series([False]).new_from_index(0, len(given))
    table = pl.DataFrame(
        {
            "word": outcome.cast(pl.String),
            "said": given.cast(pl.String).str.strip_chars(),
            "settled": ~given.is_in(open_texts.implode()),
            **{name: columns[name].cast(pl.String) for name in SIDES if name in columns},
        }
    )
    wins: list[pl.Expr] = []
    for a, b in zip(SIDES[::2], SIDES[1::2], strict=True):
        if {a, b} <= set(table.columns):
            is_a, is_b = (pl.col("said") == pl.col(side) for side in (a, b))
            won = pl.when(is_a & ~is_b).then(pl.lit("a"))
            wins.append(won.when(is_b & ~is_a).then(pl.lit("b")))
    by_name = pl.when(~pl.col("settled").fill_null(True)).then(pl.coalesce(wins))
    table = table.with_columns(name=by_name)
    unclear = table.select((pl.col("word") != pl.col("name")).fill_null(False)).to_series()
    outcome = table.select(pl.coalesce("word", "name").cast(pl.Enum(OUTCOMES))).to_series()
    return outcome.alias("outcome"), unclear
