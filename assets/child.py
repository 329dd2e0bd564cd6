"""Become a job that neither outlives its parent nor works beside an earlier one of its kind.

    python -m assets.child PARENT_PID LOCK_FILE COMMAND ARGUMENTS...

An orchestrator killed outright cannot stop its job, and its next run would start a second one in
the same folder. So the kernel interrupts the job when its parent dies (where it can: Linux), and
the lock, kept through `exec`, lets the next job begin only when this one has ended. The servers of
the pages are tied to whoever serves them in the same way.
"""

import ctypes
import fcntl
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
INTERRUPTED = 130


def main() -> None:
    """Tie this process to its parent, wait for the lock and become the job."""
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
