"""Who won: the words that arenas and labelling tools have for it, or the winner's own name."""

import re
from collections.abc import Mapping

import polars as pl

from arena.schema import OUTCOMES
from arena.votes.coding import categories, coded, recoded

# As `plain` spells them.
THINGS = ("", "model", "image", "option", "response", "output")
WORDS = {
    **dict.fromkeys([*(f"{each}a" for each in THINGS), "model1", "image1", "left"], "a"),
    **dict.fromkeys([*(f"{each}b" for each in THINGS), "model2", "image2", "right"], "b"),
    **dict.fromkeys(("a>b", "a>>b", "b<a", "b<<a"), "a"),
    **dict.fromkeys(("b>a", "b>>a", "a<b", "a<<b"), "b"),
    **dict.fromkeys(
        (
            *("tie", "tiebothbad", "tiebothgood", "bothbad", "bothgood", "both", "neither"),
            *("equal", "draw", "same", "tied", "bothequal", "nopreference", "a=b"),
        ),
        "tie",
    ),
}
# What may follow: "A is better", "model_a wins", leftvote.
ENDING = re.compile(r"(isbetter|better|wins?|won|vote)$")
NO_WORDS: Mapping[str, str] = {}
SIDES = ("model_a", "model_b", "image_a", "image_b")


def plain(word: str) -> str:
    """Return an outcome's word without case, blanks, _, - and brackets; 1.0 is 1."""
    bare = re.sub(r"[\s_()\[\]]+|(?<=[a-z])-(?=[a-z])", "", word.lower())
    return re.sub(r"^(-?\d+)\.0+$", r"\1", bare) or word.strip()


def meaning(word: str) -> str | None:
    """Return a, b or tie for an outcome's word as `plain` spells it, None for an unknown one."""
    said = word.replace("bothare", "both")
    return WORDS.get(said) or WORDS.get(ENDING.sub("", said))


def outcome_of(
    given: pl.Series, columns: Mapping[str, pl.Series], outcomes: Mapping[str, str] = NO_WORDS
) -> tuple[pl.Series, pl.Series]:
    """Return (a, b, tie or null as pl.Enum, whether a word may be a side or the other's name).

    columns: models and images (n,), whose names may stand for a side. outcomes: further words.
    """
    given = coded(given)
    texts = categories(given)
    spelled = [plain(name) for name in texts]
    meant = pl.Series([outcomes.get(s) or meaning(s) for s in spelled], dtype=pl.String)
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
