"""Raters who are forgotten: their votes are left out of every table, now and whatever arrives.

The files of votes are people's own and are never edited. So the lake keeps a list of raters, as
keyed hashes and not by name, and every intake leaves their votes out. The list is part of what the
votes are made from: where it grows, the votes and everything after them are stale.
"""

import hashlib
import json
import secrets
from collections.abc import Collection
from typing import Any

import polars as pl

from arena.votes.faults import VotesError
from arena.votes.options import hashed_raters
from assets.lake import Lake, table_name

TABLES = ("votes", "rankings")
LIST = "forgotten.json"


def forget(lake: Lake, rater: str) -> None:
    """Put a rater, as the table of votes calls them, on the list."""
    told = _list(lake) or {"key": secrets.token_hex(32), "raters": []}
    told["raters"] = sorted({*told["raters"], _mark(told["key"], rater)})
    with lake.writing(LIST) as aside:
        aside.write_text(json.dumps(told))
        aside.chmod(0o600)


def list_version(lake: Lake) -> str:
    """Return a hash of the list, "" where nobody is on it."""
    told = _list(lake)
    return hashlib.sha256("\n".join(told["raters"]).encode()).hexdigest() if told else ""


def leave_out(lake: Lake, without: Collection[str] = ()) -> int:
    """Take the votes of forgotten raters out of the tables; return how many rows these were.

    without: further raters whose votes go, as the tables call them. The number is kept in the lake,
    so that no vote is unaccounted for. Raises VotesError where no vote is left.
    """
    told, rows = _list(lake) or {"key": "", "raters": []}, 0
    gone = [
        name
        for name in (raters(lake) if told["raters"] or without else ())
        if name in without or _mark(told["key"], name) in told["raters"]
    ]
    if gone:
        rows = rows_of(lake, gone)
        for name in TABLES:
            kept = pl.scan_parquet(lake.table(name)).filter(~_by(gone))
            with lake.writing(table_name(name)) as aside:
                kept.sink_parquet(aside, compression="zstd")
        if not pl.scan_parquet(lake.table("votes")).select(pl.len()).collect().item():
            raise VotesError("no vote is left: every rater is forgotten or in votes.without")
    lake.write("forgotten", pl.DataFrame({"rows": [rows]}))
    return rows


def left_out(lake: Lake) -> int:
    """Return how many rows of the sources are left out of the newest votes."""
    kept = lake.table("forgotten").exists()
    return int(lake.read("forgotten")["rows"][0]) if kept else 0


def raters(lake: Lake) -> list[str]:
    """Return every rater of the votes and rankings as they are in the lake."""
    parts = [pl.scan_parquet(lake.table(name)).select("rater") for name in TABLES]
    found = pl.concat(parts).drop_nulls().unique().collect(engine="streaming")
    return sorted(found["rater"])


def rows_of(lake: Lake, names: list[str]) -> int:
    """Count the rows of the sources that these raters gave, a ranking's pairs as its own rows."""
    own = pl.scan_parquet(lake.table("votes")).filter(_by(names), pl.col("ranking").is_null())
    ranked = pl.scan_parquet(lake.table("rankings")).filter(_by(names)).select(pl.col("rows").sum())
    return int(own.select(pl.len()).collect().item()) + int(ranked.collect().item() or 0)


def as_stored(salt: str | None, name: str) -> list[str]:
    """Return what a rater may be called in the lake: their name, or its hash under the salt."""
    if salt is None:
        return [name]
    return [name, *hashed_raters(pl.DataFrame({"rater": [name]}), salt)["rater"]]


def _by(names: list[str]) -> pl.Expr:
    return pl.col("rater").is_in(names).fill_null(False)


def _list(lake: Lake) -> dict[str, Any] | None:
    path = lake.at(LIST)
    return json.loads(path.read_text()) if path.exists() else None


def _mark(key: str, rater: str) -> str:
    return hashlib.blake2b(rater.encode(), key=bytes.fromhex(key)).hexdigest()
