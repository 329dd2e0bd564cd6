"""What people keep in an object store, votes and images, brought here object by object.

An object is fetched when its ETag is another one than this machine last saw. A table of votes with
pictures in it stays where it is: of such a one `arena` reads the columns that it needs.
"""

import glob
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from arena.votes.faults import VotesError
from arena.votes.sources import SUFFIXES, File
from assets.store import Store
from assets.store_url import StoreError
from assets.study import Study


def is_object(source: Path | str) -> bool:
    """Tell whether a source lies in a store that objects are brought from."""
    return str(source).startswith(("s3://", "gs://"))


def brought(url: str, suffixes: tuple[str, ...] = SUFFIXES) -> list[File | str]:
    """Return the files that a URL, a folder's or one with `*` stands for, by name; [] for none.

    `s3://bucket/landing/*.jsonl`: each is named by its URL. A `*` stands for no slash; a folder's
    files count in all its depth. Raises VotesError where the store cannot be read.
    """
    parts = urlsplit(url)
    bucket = Store(parts._replace(path="").geturl())
    key = parts.path.strip("/")
    above = key.split("*")[0].rpartition("/")[0] if glob.has_magic(key) else key
    try:
        start = f"{parts.netloc}/"
        names = [each.path.removeprefix(start) for each in bucket.infos(above)]
        kept = (name for name in names if name == key or _is_meant(name, key, suffixes))
        return [
            bucket.where(name) + (f"?{parts.query}" if parts.query else "")
            if _holds_pictures(bucket, name)
            else File(bucket.at(name), bucket.where(name))
            for name in sorted(kept)
        ]
    except StoreError as error:
        raise VotesError(str(error)) from None


def _is_meant(name: str, key: str, suffixes: tuple[str, ...]) -> bool:
    if glob.has_magic(key):
        parts, wanted = name.split("/"), key.split("/")
        return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
    hidden = any(part.startswith((".", "_")) for part in name.removeprefix(key).split("/"))
    return not hidden and name.lower().endswith(suffixes)


def _holds_pictures(bucket: Store, name: str) -> bool:
    if not name.lower().endswith(".parquet") or bucket.path(name).is_file():
        return False
    with bucket.reading(name) as file:
        try:
            schema = pq.read_schema(file)
        except pa.ArrowInvalid:  # whoever reads it says what is wrong
            return False
    kinds = [kind for field in schema for kind in (field.type, *_inside(field.type))]
    return any(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) for kind in kinds)


def _inside(kind: pa.DataType) -> list[pa.DataType]:
    return [field.type for field in kind] if pa.types.is_struct(kind) else []


def images_of(study: Study) -> Path | None:
    """Return the file or folder that holds all images of the votes, brought here; else None."""
    images = study.votes.images
    if images is None or isinstance(images, Path):
        return images
    parts = urlsplit(images)
    bucket, key = Store(parts._replace(path="").geturl()), parts.path.strip("/")
    for info in bucket.infos(key):
        bucket.at(info.path.removeprefix(f"{parts.netloc}/"))
    return bucket.path(key)
