"""What a person sees while `run` works: a bar on a terminal, lines with the time elsewhere.

On a terminal only the bar is shown; what jobs and libraries print goes into a log, whose last line
stands beside the bar.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from assets.pictures import in_plain_text

EVERY_SECONDS = 0.5
LAST_BYTES = 2000


class Lines:
    """Says every line with the seconds since the start."""

    def __init__(self) -> None:
        self.begun = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line on stderr."""
        stamp = f"[{time.monotonic() - self.begun:6.1f} s]"
        print(stamp, in_plain_text(line), file=sys.stderr, flush=True)

    def done(self, count: int) -> None:
        """Say nothing: a line says already that stages are done."""


class Bar:
    """Counts the stages that are up to date; the checks that say no are lines above the bar."""

    def __init__(self, total: int, terminal: TextIO, log: Path) -> None:
        self.log, self.over = log, threading.Event()
        form = "{desc} {bar} {n_fmt}/{total_fmt} stages  {elapsed}{postfix}"
        wide = os.get_terminal_size(terminal.fileno()).columns or 80
        self.bar = tqdm(total=total, file=terminal, bar_format=form, ncols=wide)
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def say(self, line: str) -> None:
        """Show what is being done, or, above the bar, what a check or a failure says."""
        plain = in_plain_text(line)
        if ": done in" in plain or plain.endswith(": up to date"):
            return
        if plain.startswith("  ") or ": " not in plain:
            self.bar.write(plain, file=self.bar.fp)
        else:
            self.bar.set_description_str(plain.partition(":")[0])

    def done(self, count: int) -> None:
        """Count stages that are up to date now."""
        self.bar.update(count)

    def watch(self) -> None:
        """Keep the clock running, and the last line that a job printed beside it."""
        while not self.over.wait(EVERY_SECONDS):
            self.bar.set_postfix_str(last_line(self.log))

    def close(self) -> None:
        """Leave the terminal to what comes next."""
        self.over.set()
        self.thread.join()
        self.bar.set_postfix_str("", refresh=False)
        self.bar.close()


def last_line(log: Path) -> str:
    """Return the last line of a log, short enough to stand beside a bar."""
    with log.open("rb") as stream:
        stream.seek(max(log.stat().st_size - LAST_BYTES, 0))
        lines = stream.read().decode(errors="replace").replace("\r", "\n").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return in_plain_text(said[-1])[:60] if said else ""


@contextmanager
def shown(total: int, log: Path) -> Iterator[Lines | Bar]:
    """Yield what shows a chain of so many stages; log: where jobs' words go under a bar.

    Under a bar stdout and stderr of this process and its children are the log's until the end.
    """
    if not sys.stderr.isatty():
        yield Lines()
        return
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept = [os.dup(number) for number in (1, 2)]
    with log.open("w") as words, os.fdopen(os.dup(2), "w") as terminal:
        for number in (1, 2):
            os.dup2(words.fileno(), number)
        bar = Bar(total, terminal, log)
        try:
            yield bar
        finally:
            bar.close()
            for stream, before in zip((sys.stdout, sys.stderr), kept, strict=True):
                stream.flush()
                os.dup2(before, stream.fileno())
                os.close(before)
