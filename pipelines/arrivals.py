"""How many votes wait: the rows of files that no intake has taken in yet, without reading them."""

from pathlib import Path

import pyarrow.parquet as pq

from arena.votes.sources import remote_rows, without_query
from assets.content import remembered
from assets.lake import Lake
from assets.study import Study
from assets.votes import print_of, sources_of


def waiting(study: Study, lake: Lake, settled: float | None = None) -> int:
    """Count the rows of files whose content is in no earlier intake, those known of them aside.

    settled: files written after this time do not count yet. Raises NothingYet where no file is.
    """
    before = lake.read("intake") if lake.table("intake").exists() else None
    known = set(before["fingerprint"]) if before is not None else set()
    rows = dict(before.select("file", "rows").iter_rows()) if before is not None else {}
    count = 0
    for source in sources_of(study, settled):
        if isinstance(source, str):
            count += max(remote_rows(source) - rows.get(without_query(source), 0), 0)
        elif remembered("votes", source.path, print_of) not in known:
            count += max(rows_of(source.path) - rows.get(source.name, 0), 0)
    return count


def rows_of(path: Path) -> int:
    """Estimate a file's rows without reading its votes: a parquet's footer, else its lines."""
    if path.suffix == ".parquet":
        try:
            return int(pq.read_metadata(path).num_rows)
        except (OSError, ValueError):
            return 1
    with path.open("rb") as stream:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 20), b"")) or 1
