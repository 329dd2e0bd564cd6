"""Become a server that neither outlives its parent nor works beside an earlier one of its kind.

    python -m pipelines.tied PARENT_PID LOCK_FILE COMMAND ARGUMENTS...

Who serves the pages and is killed outright cannot stop the servers, and the next one would find
their ports taken. So the kernel interrupts a server when its parent dies (where it can: Linux), and
the lock, kept through `exec`, lets the next server begin only when this one has ended.
"""

import ctypes
import fcntl
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
INTERRUPTED = 130


def main() -> None:
    """Tie this process to its parent, wait for the lock and become the server."""
    parent, lock, *command = sys.argv[1:]
    # What a shell's script puts in the background is deaf to interrupts, and so are its children.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
    if os.getppid() != int(parent):  # it died before the kernel was asked
        sys.exit(INTERRUPTED)
    handle = os.open(lock, os.O_RDWR | os.O_CREAT)
    os.set_inheritable(handle, True)
    fcntl.flock(handle, fcntl.LOCK_EX)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
