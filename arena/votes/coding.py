"""Columns of few distinct texts, coded as pl.Enum, so that a hundred million names are small."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

# A whole number above this has lost digits where it was stored as a float.
EXACT = 2.0**53


def as_texts(column: pl.Series) -> pl.Series:
    """Return floats as text; a whole one is the integer that it was."""
    whole = column.is_finite() & (column == column.round()) & (column.abs() <= EXACT)
    texts = pl.select(
        pl.when(whole.fill_null(False))
        .then(column.cast(pl.Int64, strict=False).cast(pl.String))
        .when(column.is_not_nan())
        .then(column.cast(pl.String))
    )
    return texts.to_series()


def coded(column: pl.Series) -> pl.Series:
    """Return a column of few distinct texts as pl.Enum of the texts that it has."""
    if isinstance(column.dtype, pl.Enum):
        return column
    text = as_texts(column) if column.dtype.is_float() else column.cast(pl.String)
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


def stacked(parts: Sequence[pl.DataFrame], schema: Mapping[str, Any]) -> pl.DataFrame:
    """Return frames in one; their models become one pl.Enum, in the order of the alphabet.

    schema: further columns that the frame has in any case.
    """
    sides = ("model_a", "model_b")
    names = {name for part in parts for side in sides for name in categories(part[side])}
    models = pl.Enum(sorted(names))
    coded_alike = [
        part.with_columns(recoded(part[s], categories(part[s]), models) for s in sides)
        for part in parts
    ]
    empty = {"model_a": models, "model_b": models, **schema}
    return pl.concat([pl.DataFrame(schema=empty), *coded_alike], how="diagonal")
