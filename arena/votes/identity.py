"""What makes a vote itself, and a delivery: names for votes without one, and what came twice.

A name is a hash of the row's content and its number among equal rows, so that neither a new file
nor a renamed one changes it. It must be the same on every machine and for every version of every
library, because gaps are joined to votes by it: BLAKE2b over the columns' texts. Files are the same
delivery by content, whatever they are called and however packed; only what can be votes makes a
file's fingerprint, so the images in it cost nothing.
"""

import codecs
import hashlib
from binascii import hexlify
from collections.abc import Sequence
from hashlib import blake2b
from itertools import count

import numpy as np
import polars as pl
import pyarrow as pa

from arena.votes.containers import open_table
from arena.votes.faults import UNREADABLE, sentence
from arena.votes.packed import opened
from arena.votes.sources import File

# A vote's content. The name of its file is left out: renaming a file changes no vote.
CONTENT = (
    *("source", "model_a", "model_b", "outcome", "prompt_id", "prompt", "image_a", "image_b"),
    *("rater", "created_at", "split", "dimension", "votes_a", "votes_b", "votes_tie"),
    *("models", "images", "ranks"),
)
SLICE = 1 << 18  # rows whose content is in memory as texts at once
ABSENT, BETWEEN = "\0", "\x1f"


def content(table: pl.DataFrame, every: bool = False) -> pl.Series:
    """Return every row's content as one text.

    every: whether a column that a table lacks is as one of nulls, so that tables can be compared.
    """
    texts = []
    for name in CONTENT:
        kind = table.schema.get(name)
        if kind is None or table[name].null_count() == table.height:
            texts += [pl.lit("")] if every or kind is not None else []
            continue
        column = pl.col(name)
        if isinstance(kind, pl.List):
            column = column.cast(pl.List(pl.String)).list.eval(pl.element().fill_null(ABSENT))
            column = column.list.join("\x1e")
        elif isinstance(kind, pl.Datetime):
            column = column.to_physical()
        # The name goes with the value, so that absent columns need no place.
        texts.append((pl.lit(f"{name}=") + column.cast(pl.String)).fill_null(""))
    return table.select(pl.concat_str(texts, separator=BETWEEN)).to_series()


def with_ids(table: pl.DataFrame) -> pl.DataFrame:
    """Fill in the vote_id of every vote that has none: 16 hexadecimal digits.

    Of equal votes the first has the hash of their content, the k-th `.k` after it.
    """
    nameless = table["vote_id"].is_null()
    if not nameless.any():
        return table
    few, digests = table if nameless.all() else table.filter(nameless), []
    for some in few.iter_slices(SLICE):
        texts = content(some).cast(pl.Binary).to_list()
        digests.append(b"".join([blake2b(text, digest_size=8).digest() for text in texts]))
    joined = b"".join(digests)
    ends = pa.py_buffer(np.arange(0, 2 * len(joined) + 1, 16))
    spelled = pa.LargeStringArray.from_buffers(few.height, ends, pa.py_buffer(hexlify(joined)))
    made, digest = pl.Series(spelled), np.frombuffer(joined, np.uint64)
    ordered = np.sort(digest)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        rows = np.flatnonzero(np.isin(digest, twice))
        same = pl.DataFrame({"digest": digest[rows]})
        number = np.ones(len(digest), np.int64)
        number[rows] = same.select(pl.int_range(1, pl.len() + 1).over("digest")).to_series()
        again, plain = pl.lit(pl.Series(number)), pl.lit(made)
        named = pl.when(again > 1).then(pl.format("{}.{}", plain, again)).otherwise(plain)
        made = pl.select(named).to_series()
    if len(made) == table.height:
        return table.with_columns(vote_id=made)
    place = (nameless.cum_sum().cast(pl.Int64) - 1).clip(0)
    given = unclaimed(table["vote_id"], made)
    return table.with_columns(vote_id=pl.when(nameless).then(made.gather(place)).otherwise(given))


def keys_of(table: pl.DataFrame) -> pl.DataFrame:
    """Return what tells whether a vote came before: 64-bit hashes of its id and its content.

    table: the content, `file` (its number) and `vote_id`, null where none was given.
    """
    absent = pl.Series([None], dtype=pl.String).new_from_index(0, table.height)
    given, time = (table.get_column(n, default=absent) for n in ("vote_id", "created_at"))
    keys = {"id": given.hash(), "text": content(table, True).hash(), "timed": time.is_not_null()}
    whole = pl.DataFrame(keys | {"file": table["file"]})
    return whole.with_columns(id=pl.when(given.is_not_null()).then("id"))


def repeats(keys: pl.DataFrame) -> tuple[pl.Series, pl.Series, pl.Series]:
    """Return (same, clash, claimed), (n,) each, of votes that come after another.

    same: equal rows under one vote_id are one vote, and so are equal rows with a time in different
    files, as many of them as the file with the most has. clash: a file has another row under this
    vote_id already, and the first stays. claimed: another file has it, which need not be the one
    that made it: both stay. Rows with neither an id nor a time are different votes.
    """
    given, timed = pl.col("id").is_not_null(), pl.col("timed") & pl.col("id").is_null()
    several = keys["file"].n_unique() > 1 and keys.select(timed.any()).item()
    number = pl.int_range(pl.len()).over("text", "file") if several else pl.lit(0)
    came = timed & ~pl.struct("text", number.alias("number"), given).is_first_distinct()
    same = (given & ~pl.struct("id", "text").is_first_distinct()) | (came if several else False)
    other = given & ~pl.col("id").is_first_distinct()
    beside = given & ~pl.struct("id", "file").is_first_distinct()
    found = keys.select(same=same, other=other, beside=beside)
    clash = found["beside"] & ~found["same"]
    return found["same"], clash, found["other"] & ~found["same"] & ~clash


def unclaimed(given: pl.Series, made: pl.Series) -> pl.Series:
    """Return the ids that were given, with `~k` after each that equals one of those made.

    Anybody can compute an id that will be made, and give it to a vote of their own.
    """
    claims = given.is_in(made.implode()).fill_null(False)
    if not claims.any():
        return given
    taken = {*given.drop_nulls(), *made}
    free = (k for k in count(1))
    names = [
        next(name for k in free if (name := f"{each}~{k}") not in taken) if claim else each
        for each, claim in zip(given, claims, strict=True)
    ]
    return pl.Series(given.name, names, dtype=pl.String)


def repeated(files: Sequence[File]) -> dict[int, int]:
    """Return the place of each file whose whole content another has -> the place of the first."""
    first: dict[str, int] = {}
    places = [first.setdefault(fingerprint(file), k) for k, file in enumerate(files)]
    return {k: place for k, place in enumerate(places) if place != k}


def fingerprint(file: File) -> str:
    """Return a hash of what the arena may read of a file, after a word for what was hashed.

    Raises VotesError where it cannot be opened; text is hashed without what Excel and git add to it
    (a byte order mark, carriage returns), a file that is no table by its bytes.
    """
    from arena.votes import columnar, samples  # see `open_table`

    digest, kind = hashlib.sha256(), "bytes"
    try:
        table = open_table(file.path)
        if isinstance(table, columnar.Columnar | samples.Samples):
            kind = table.kind
            table.add_to(digest)
    except UNREADABLE:
        digest, kind = hashlib.sha256(), "bytes"  # spoiled further on
    if kind == "bytes":
        try:
            with opened(file.path) as stream:
                while block := stream.read(1 << 20):
                    digest.update(block.replace(b"\r", b"").removeprefix(codecs.BOM_UTF8))
        except UNREADABLE as error:
            raise sentence(error, file.name) from None
    return f"{kind}:{digest.hexdigest()}"
