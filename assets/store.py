"""A lake's files: in a folder, or in an object store of which this machine keeps a working copy.

The store is the truth. A file is brought here when the store's content is another one than this
machine last saw, and it is put back whole. Where the store is a folder of this machine, copy and
truth are the same files, and nothing moves.

    store = Store("s3://bucket/lake")
    with store.writing("votes/votes.parquet") as aside:
        table.write_parquet(aside)
    store.at("votes/votes.parquet")  # the file here, as the store has it now

Needs no more than pyarrow, so that a job's machine can stage its own inputs and outputs.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pyarrow import fs

from arena.atomic import replacing
from assets.store_url import TRIES, StoreError, opened, saying, shown

TRIED = ".check"
CHUNK = 1 << 22
class Head(NamedTuple):
    """What tells an object's content from another one's, without reading it."""

    size: int
    mark: str


def component(name: str) -> str:
    """Return a name that is one plain component of a path; raise ValueError for any other one."""
    if name in ("", ".", "..") or set(name) & set("/\\") or not name.isprintable():
        raise ValueError(f"{name!r} cannot be a folder of the lake: it has to be one plain name")
    return name


def private_folder(path: Path) -> Path:
    """Make a folder and those above it, as far as they are missing, for their owner only."""
    for each in reversed([path, *path.parents]):
        each.mkdir(mode=0o700, exist_ok=True)
    return path


@dataclass(frozen=True)
class Store:
    """Files under one root; names are relative to it, with slashes.

    place: a folder or a URL.
    """

    place: Path | str

    @property
    def remote(self) -> bool:
        """Whether the truth lies elsewhere than in a folder of this machine."""
        return isinstance(self.place, str) and "://" in self.place

    @property
    def name(self) -> str:
        """The root as people may see it."""
        return shown(self.place)

    @property
    def root(self) -> Path:
        """The folder on this machine: the lake itself, or the working copy of a remote one.

        A working copy lies in the user's cache ($XDG_CACHE_HOME) and may be deleted when no run is
        going on.
        """
        if not self.remote:
            return Path(self.place)
        above = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return above / "arenapo" / hashlib.sha256(str(self.place).encode()).hexdigest()[:16]

    @property
    def system(self) -> fs.FileSystem:
        """The file system in which the truth lies."""
        return opened(str(self.place))[0] if self.remote else fs.LocalFileSystem()

    def far(self, name: str) -> str:
        """Return a file's path in that file system."""
        base = opened(str(self.place))[1] if self.remote else str(Path(self.place).absolute())
        return f"{base}/{name}" if name else base

    def reach(self, write: bool = False) -> None:
        """Raise StoreError saying what is wrong where the store cannot be read, or written too."""
        if self.remote:
            private_folder(self.root)
            with saying(self.place), suppress(FileNotFoundError):  # nothing was put yet
                self.system.get_file_info(fs.FileSelector(self.far("")))
        if self.remote and write:
            with self.writing(TRIED) as aside:
                aside.write_text("pipelines check wrote this\n")
            self.remove(TRIED)

    def where(self, name: str) -> str:
        """Return a file's place as people and other programs find it: a path or a URL."""
        return f"{self.name}/{name}"

    def path(self, *parts: str) -> Path:
        """Return the place of a file or folder on this machine, whatever lies there."""
        return self.root.joinpath(*parts)

    def at(self, name: str) -> Path:
        """Return the file on this machine as the store has it now; absent where it has none."""
        path = self.path(name)
        if self.remote:
            head = self.head(name)
            if head is None:
                path.unlink(missing_ok=True)
            elif self.seen(name) != _as_seen(head, path):
                self.fetch(name, head)
        return path

    @contextmanager
    def reading(self, name: str) -> Iterator[Any]:
        """Yield an object opened where it lies, to read a part of it."""
        with saying(self.place), self.system.open_input_file(self.far(name)) as file:
            yield file

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a path to write to; the file appears whole in the store at the end, or not."""
        private_folder(self.path(name).parent)
        with replacing(self.path(name)) as aside:
            yield aside
        self.put(self.path(name))

    def put(self, *paths: Path) -> None:
        """Put files below the root, and all of a folder's, as they lie on this machine."""
        if self.remote:
            for path in paths:
                for file in path.rglob("*") if path.is_dir() else (path,):
                    if file.is_file() and not is_aside(file):
                        self.send(file.relative_to(self.root).as_posix())

    def exists(self, name: str) -> bool:
        """Tell whether the store holds a file, or files below a folder."""
        return bool(self.infos(name))

    def infos(self, name: str) -> list[fs.FileInfo]:
        """Return size and time of a file, or of all files below a folder, as the store has them."""
        with saying(self.place):
            info = self.system.get_file_info(self.far(name))
        if info.type == fs.FileType.File:
            return [info]
        return [each for each in self._list(name) if each.type == fs.FileType.File]

    def folders(self, name: str) -> list[str]:
        """Return the names of the folders in a folder, in the store and here, sorted."""
        found = [each for each in self._list(name, False) if each.type == fs.FileType.Directory]
        here = self.path(name).iterdir() if self.path(name).is_dir() else ()
        names = {each.base_name for each in found} | {each.name for each in here if each.is_dir()}
        return sorted(each for each in names if not self.path(name, each).is_symlink())

    def remove(self, name: str) -> None:
        """Delete a file, or a folder with all in it, from the store and from here."""
        if self.remote:
            system, far = self.system, self.far(name)
            with saying(self.place), suppress(FileNotFoundError):
                one = system.get_file_info(far).type == fs.FileType.File
                (system.delete_file if one else system.delete_dir)(far)
        path = self.path(name)
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)

    def _list(self, name: str, recursive: bool = True) -> list[fs.FileInfo]:
        wanted = fs.FileSelector(self.far(name), recursive=recursive, allow_not_found=True)
        with saying(self.place):
            return list(self.system.get_file_info(wanted))

    def head(self, name: str) -> Head | None:
        """Return what tells an object's content, None where there is none."""
        with saying(self.place):
            try:
                with self.system.open_input_file(self.far(name)) as file:
                    size, told = file.size(), file.metadata()
            except FileNotFoundError:
                return None
        marks = {str(key).lower(): bytes(value).decode() for key, value in (told or {}).items()}
        return Head(size, marks.get("etag") or marks["last-modified"])

    def fetch(self, name: str, head: Head) -> str:
        """Bring an object here and return its sha256; `head` is the object's before that."""
        private_folder(self.path(name).parent)
        for _ in range(TRIES):
            digest = hashlib.sha256()
            with replacing(self.path(name)) as aside:
                with (
                    saying(self.place),
                    self.system.open_input_stream(self.far(name)) as stream,
                    aside.open("wb") as out,
                ):
                    while chunk := stream.read(CHUNK):
                        digest.update(chunk)
                        out.write(chunk)
                # It may have been replaced while it was read.
                whole = aside.stat().st_size == head.size and self.head(name) == head
            if whole:
                self._remember(name, head)
                return digest.hexdigest()
            found = self.head(name)
            if found is None:
                break
            head = found
        self.path(name).unlink(missing_ok=True)
        raise StoreError(f"{self.name}/{name} cannot be read whole; run again")

    def send(self, name: str) -> list[Any]:
        """Put a file whole; return its size and sha256 as they were sent."""
        for _ in range(TRIES):
            digest, size = hashlib.sha256(), 0
            stat = self.path(name).stat()
            with (
                self.path(name).open("rb") as stream,
                saying(self.place),
                self.system.open_output_stream(self.far(name)) as out,
            ):
                while chunk := stream.read(CHUNK):
                    digest.update(chunk)
                    size += len(chunk)
                    out.write(chunk)
            head = self.head(name)
            if head is not None and head.size == size:
                if size == stat.st_size:
                    self._remember(name, head)
                return [size, digest.hexdigest()]
        raise StoreError(f"{self.name}/{name} could not be put whole; run again")

    def seen(self, name: str) -> str:
        """Return which object a file here is, and the size and time that it had then."""
        note = self.path(".seen", name)
        return note.read_text() if note.is_file() else ""

    def _remember(self, name: str, head: Head) -> None:
        note = self.path(".seen", name)
        private_folder(note.parent)
        with replacing(note) as aside:
            aside.write_text(_as_seen(head, self.path(name)))


def _as_seen(head: Head, path: Path) -> str:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return "absent"
    return f"{head.mark} {head.size} {stat.st_size} {stat.st_mtime_ns}"


def is_aside(path: Path) -> bool:
    """Tell whether a file is one that a writer has not finished."""
    return path.name.startswith(".") and path.name.endswith(".partial")
