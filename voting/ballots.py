"""The votes as files: durable before they are answered, counted once, taken back for ten seconds.

    ballots = Ballots(landing)
    ballots.add("votes", {"vote_id": "7f..", ...})      # raises Refused where the id came before
    ballots.withdraw("7f..", rater)                     # within UNDO_SECONDS

One line of votes-*.jsonl (or rankings-*.jsonl) is one vote in the layout of the votes table. It is
appended and fsynced before `add` returns. Taking one back first notes its id in `.withdrawn`, then
writes the file anew without its line, and both are on the disk before `withdraw` returns. So a
process killed at any moment leaves whole votes and at most one torn line that nobody was answered
for, which the next start cuts off. One process at a time writes into a landing folder.
"""

import fcntl
import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from arena.atomic import replacing

UNDO_SECONDS = 10.0
# A new file begins after so many votes or seconds: intake leaves a file alone that was written
# within the last minute, so one that is always written would never be read.
MOST_VOTES, MOST_SECONDS = 1000, 600.0
KINDS = ("votes", "rankings")


class Refused(ValueError):
    """A vote that does not count, with the sentence that says why."""


class Ballots:
    """The page's votes of one landing folder, from any thread.

    rows: vote_id -> the vote as it was given to `add`, in the order of arrival. Raises ValueError
    where another process writes into the folder already.
    """

    def __init__(self, landing: Path, clock: Callable[[], float] = time.time):
        self.landing, self.clock = landing, clock
        self.rows: dict[str, dict[str, Any]] = {}
        self.withdrawn: set[str] = set()
        self.changes = 0
        self._lock = threading.Lock()
        self._places: dict[str, Path] = {}
        self._open: dict[str, tuple[Path, float, int]] = {}
        landing.mkdir(parents=True, exist_ok=True)
        self._turn = (landing / ".voting.lock").open("w")
        try:
            fcntl.flock(self._turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another voting page writes into {landing}; stop it first") from None
        self._recover()

    def add(self, kind: str, vote: dict[str, Any]) -> None:
        """Write a vote; it is on the disk when this returns.

        Raises Refused where its id was voted or withdrawn before, OSError where the disk says no:
        nothing is then left of it.
        """
        name = vote["vote_id"]
        with self._lock:
            if name in self.rows or name in self.withdrawn:
                raise Refused("this vote was counted before; ask for the next pair")
            path = self._file(kind)
            _append(path, json.dumps(vote) + "\n")
            _, since, count = self._open[kind]
            self._open[kind] = (path, since, count + 1)
            self.rows[name], self._places[name] = vote, path
            self.changes += 1

    def withdraw(self, name: str, rater: str) -> dict[str, Any]:
        """Take a vote back and return it.

        Raises Refused for a vote that there is not, of somebody else, or older than UNDO_SECONDS.
        """
        with self._lock:
            vote = self.rows.get(name)
            if vote is None or vote["rater"] != rater:
                raise Refused("there is no such vote of yours to take back")
            age = self.clock() - datetime.fromisoformat(vote["created_at"]).timestamp()
            if age > UNDO_SECONDS:
                raise Refused(f"a vote can be taken back for {UNDO_SECONDS:.0f} seconds only")
            _append(self.landing / ".withdrawn", name + "\n")
            self.withdrawn.add(name)
            self._without(self._places.pop(name), {name})
            self.changes += 1
            return self.rows.pop(name)

    def close(self) -> None:
        """Let another process write."""
        self._turn.close()

    def _file(self, kind: str) -> Path:
        """Return the file that the next vote of this kind goes to."""
        now = self.clock()
        path, since, count = self._open.get(kind, (None, 0.0, 0))
        if path is None or count >= MOST_VOTES or now - since > MOST_SECONDS:
            moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%S")
            path = self.landing / f"{kind}-{moment}-{secrets.token_hex(3)}.jsonl"
            self._open[kind] = (path, now, 0)
        return path

    def _recover(self) -> None:
        """Read the page's files, cut off torn lines and finish what was being taken back."""
        note = self.landing / ".withdrawn"
        self.withdrawn = set(note.read_text().split()) if note.exists() else set()
        for kind in KINDS:
            for path in sorted(self.landing.glob(f"{kind}-*.jsonl")):
                for row in _whole_rows(path):
                    self.rows[row["vote_id"]], self._places[row["vote_id"]] = row, path
        self.rows = dict(sorted(self.rows.items(), key=lambda item: item[1]["created_at"]))
        left = self.withdrawn & self.rows.keys()
        for path in {self._places[name] for name in left}:
            self._without(path, left)
        for name in left:
            del self.rows[name], self._places[name]

    def _without(self, path: Path, names: set[str]) -> None:
        """Write a file anew without some votes; without any vote left there is no file."""
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)["vote_id"] not in names]
        if kept:
            with replacing(path) as aside:
                aside.write_bytes(b"".join(kept))
        else:
            path.unlink()
        _sync_folder(path.parent)


def _append(path: Path, line: str) -> None:
    """Append a line and fsync it; a new file's name too."""
    new = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        size = os.fstat(handle).st_size
        content = line.encode()
        try:
            if os.write(handle, content) != len(content):
                raise OSError("the disk is full")
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)
    if new:
        _sync_folder(path.parent)


def _whole_rows(path: Path) -> list[dict[str, Any]]:
    """Return a file's votes; what follows the last line break is of no answered vote, and goes.

    Raises ValueError for a file that is not the page's own, naming it.
    """
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
    if not end:
        path.unlink()
    try:
        rows = [json.loads(line) for line in content[:end].splitlines()]
        if not all(row.keys() >= {"vote_id", "rater", "created_at"} for row in rows):
            raise ValueError("a row without vote_id, rater and created_at")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not written by this page ({error}); rename the file") from None
    return rows


def _sync_folder(folder: Path) -> None:
    """Make the names of a folder's files durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
