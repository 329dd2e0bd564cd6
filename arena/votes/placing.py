"""Where a vote's images are, and who its rater is to others: what no vote_id depends on."""

import hashlib
import hmac
import os
from pathlib import Path

import polars as pl

from arena.votes.layout import is_path
from arena.votes.options import Options

IMAGES = ("image_a", "image_b", "images")


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
