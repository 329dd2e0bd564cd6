"""Regular files only: opening a pipe waits for ever, a device has no end, and neither has /proc."""

import os
import stat
from io import BufferedReader, FileIO
from pathlib import Path

AHEAD = 1 << 16  # bytes that can be looked at before they are read
# The kernel writes the files there.
NO_DISKS = {Path(path).stat().st_dev for path in ("/proc", "/sys") if Path(path).exists()}


class NoRegularFile(OSError):
    """A folder, a pipe, a device, or what the kernel makes up."""


def regular(path: Path) -> BufferedReader:
    """Open a regular file without waiting. Raises OSError, NoRegularFile for anything else."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    about = os.fstat(handle)
    if not stat.S_ISREG(about.st_mode) or about.st_dev in NO_DISKS:
        os.close(handle)
        raise NoRegularFile("a folder" if stat.S_ISDIR(about.st_mode) else "no regular file")
    return BufferedReader(FileIO(handle), AHEAD)
