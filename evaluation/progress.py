"""Says on stderr how far a long piece of work has come."""

import sys
import time


class Progress:
    """Counts what is done of `total` things, and says so every two seconds."""

    def __init__(self, total: int, things: str):
        self.total, self.things, self.done = total, things, 0
        self.started = self.shown = time.monotonic()

    def add(self, count: int, more: str = "") -> None:
        """Count things that were done; more : what else there is to say of them."""
        self.done += count
        now = time.monotonic()
        if now - self.shown > 2:
            self.shown = now
            rate = self.done / (now - self.started)
            said = f"  {self.done}/{self.total} {self.things}, {rate:.1f} a second"
            print(f"{said}, {more}" if more else said, file=sys.stderr)
