"""A webdataset tar: the files of one sample share the name up to the first dot.

A sample's columns are in one `.json`, or in a file each (`.caption`, `.label_0.txt`); `.txt` alone
is the caption. Images are not read here: one without a uid is named by its member,
`samples.tar::7.jpg_0`. Layout: webdataset's README, and Pick-a-Pic's shards.
"""

import hashlib
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from arena.votes.faults import Broken, shown
from arena.votes.image_sources import is_image, members, sample_of
from arena.votes.limits import MOST_COLUMNS, MOST_TEXT
from arena.votes.text_tables import ROWS, batched, frame_of


class Samples:
    """The samples of a tar as rows, in the order in which they begin."""

    kind = "tar"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.broken: Broken = []
        self._samples: dict[str, dict[str, Any]] = {}
        with tarfile.open(path, "r:") as archive:
            self._read(archive)
        keys: dict[str, None] = {}
        for sample in self._samples.values():
            keys |= dict.fromkeys(sample)
            if len(keys) > MOST_COLUMNS + 1:
                break
        self.columns = [key for key in keys if key != "row"]

    def _read(self, archive: tarfile.TarFile) -> None:
        for member in members(archive):
            key, column = sample_of(member.name)
            sample = self._samples.setdefault(key, {"row": len(self._samples) + 1})
            if is_image(member.name):
                sample.setdefault(f"image_{column[-1]}_uid", f"{self.path.name}::{member.name}")
            elif member.size > MOST_TEXT:
                reason = f"a text of {member.size:,} bytes"
                self.broken.append((sample["row"], column, reason, None))
            else:
                stream = archive.extractfile(member)
                self._add(sample, column, stream.read() if stream else b"")

    def _add(self, sample: dict[str, Any], column: str, content: bytes) -> None:
        """Add a member's text to its sample."""
        row = sample["row"]
        try:
            text = content.decode().strip()
            if column != "json":
                sample["caption" if column == "txt" else column] = text
                return
            value = json.loads(text)
            json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            begins = shown(content.decode("utf-8", "replace"))
            self.broken.append((row, column, "not readable", begins))
            return
        if isinstance(value, dict):
            sample.update(value | {"row": row})
        else:
            self.broken.append((row, column, "not a JSON object", shown(text)))

    def records(self, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield every sample that could be read whole."""
        first = {fault[0]: fault for fault in reversed(self.broken)}
        self.broken[:] = [first[row] for row in sorted(first)]
        for sample in self._samples.values():
            if sample["row"] not in first:
                yield sample["row"], {key: sample[key] for key in columns if key in sample}

    def add_to(self, digest: "hashlib._Hash") -> None:
        """Hash every member's header, and the content of those that are no images."""
        with tarfile.open(self.path, "r:") as archive:
            for member in members(archive):
                digest.update(f"{member.name}\0{member.size}\0{member.mtime}\0".encode())
                if not is_image(member.name) and member.size <= MOST_TEXT:
                    content = archive.extractfile(member)
                    digest.update(content.read() if content else b"")

    def frames(self, columns: Sequence[str], coded: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
        """Yield the samples' columns as text."""
        del coded
        for rows in batched(self.records(columns), ROWS):
            yield frame_of(rows, [name for name in columns if name in self.columns])
