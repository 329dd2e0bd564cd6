"""The members of a webdataset tar, whose names tell sample and column."""

import tarfile
from collections.abc import Iterator


def members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the files of a tar. Raises TarError for one without a plain size.

    A negative size would lead backwards, for ever.
    """
    for member in archive:
        if member.size < 0 or member.issparse():
            raise tarfile.ReadError(f"a member of {member.size:,} bytes")
        if member.isfile():
            yield member


def is_image(member: str) -> bool:
    """Tell whether a member of a tar is one of the two images."""
    return sample_of(member)[1] in ("jpg_0", "jpg_1")


def sample_of(member: str) -> tuple[str, str]:
    """Return (sample, column) of a member's name."""
    folder, _, name = member.rpartition("/")
    key, _, extension = name.partition(".")
    return f"{folder}/{key}", extension.split(".")[0]
