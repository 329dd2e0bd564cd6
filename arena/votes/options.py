"""What is asked of the reader of votes; where images are, and who a rater is to others.

No vote_id depends on where images are.
"""

import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from arena.schema import OUTCOMES, VOTES
from arena.votes.faults import VotesError
from arena.votes.formats import FORMATS
from arena.votes.layout import is_path

IMAGES = ("image_a", "image_b", "images")


@dataclass(frozen=True)
class Options:
    """How files are read.

    format: a key of `formats.FORMATS` where the columns should not decide. columns: the schema's
    column -> the file's, for a table with names of its own. outcomes: a word of the file -> a, b or
    tie. dimension: which one, where a file has several. salt: raters become keyed hashes under it.
    images: what a path in image_a or image_b becomes. "as written" leaves it, and tells equal paths
    of different folders apart; "resolved" makes one that names a file beside the votes file
    absolute, or relative to `images_from`, so that no table holds a path of this machine; "ids"
    says that they are names in a table of images, and no paths. image_roots: resolved paths lead
    into the votes file's folder, into `images_from` or into one of these; others become null.
    """

    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    outcomes: Mapping[str, str] = field(default_factory=dict)
    dimension: str | None = None
    salt: str | None = None
    images: str = "as written"
    images_from: Path | None = None
    image_roots: Sequence[Path] = ()

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            known = ", ".join(FORMATS)
            raise VotesError(f"no votes format is called {self.format!r}; there are {known}")
        for name in self.columns:
            if name not in VOTES and name != "count":
                raise VotesError(
                    f"no column of a vote is called {name!r}; there are {', '.join(VOTES)}"
                )
        for word, outcome in self.outcomes.items():
            if outcome not in OUTCOMES:
                raise VotesError(f"the outcome {word!r} is said to be {outcome!r}; say a, b or tie")


AS_THEY_ARE = Options()


def with_images_placed(
    votes: pl.DataFrame, beside: Path, folder: Path, options: Options
) -> pl.DataFrame:
    """Say of the images of one file where they are.

    beside: the folder of the file. folder: the one that all files are in: a relative path counts
    from there, so that equal paths of different folders stay different. See `Options.images`.
    Where they are resolved, a path that leads out of the allowed folders becomes null.
    """
    prefix = os.path.relpath(beside, folder)
    resolved = options.images == "resolved"
    if not resolved and prefix == ".":
        return votes
    from_here = () if options.images_from is None else (options.images_from,)
    roots = [path.resolve() for path in (beside, *from_here, *options.image_roots)]

    def place(name: str) -> str | None:
        if not is_path(name):
            return name
        path = beside / name
        try:
            whole = path.resolve()
            if resolved and not any(whole.is_relative_to(root) for root in roots):
                return None
            if resolved and path.is_file():
                if options.images_from is None or Path(name).is_absolute():
                    return str(whole)
                return os.path.relpath(whole, options.images_from)
        except (OSError, ValueError, RuntimeError):  # a text that cannot be a path
            return name
        return name if Path(name).is_absolute() or prefix == "." else f"{prefix}/{name}"

    for column in [name for name in IMAGES if name in votes.columns]:
        nested = column == "images"
        texts = votes[column].explode() if nested else votes[column]
        moved = {name: place(name) for name in texts.drop_nulls().unique()}
        moved = {name: new for name, new in moved.items() if new != name}
        if moved:
            renamed = pl.element().replace(moved) if nested else pl.col(column).replace(moved)
            votes = votes.with_columns(pl.col(column).list.eval(renamed) if nested else renamed)
    return votes


def hashed_raters(table: pl.DataFrame, salt: str) -> pl.DataFrame:
    """Replace every rater by 16 hexadecimal digits: HMAC-SHA256 under the salt."""
    digest = {
        name: hmac.new(salt.encode(), name.encode(), hashlib.sha256).hexdigest()[:16]
        for name in table["rater"].drop_nulls().unique()
    }
    return table.with_columns(pl.col("rater").replace(digest)) if digest else table
