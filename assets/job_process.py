"""A job as a process behind the study's launch prefix: started, found again, followed, stopped.

All that the two sides tell each other lies in the job's folder (`assets.child` says what), so the
job may run on another machine that sees this folder, and outlive whoever started it.
"""

import codecs
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

POLL_SECONDS = 0.2
# A process that did not change `alive` for so long is gone: five of its beats.
SILENCE_SECONDS = 5.0
KEPT_LINES = 20


@dataclass
class JobProcess:
    """One job; identity: what it is made from, so that only an equal one is followed.

    grace: seconds from "stop" to "stop at once".
    """

    folder: Path
    identity: str
    grace: float
    words: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT_LINES))
    child: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        self._read = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def found(self) -> bool:
        """Return whether this job works already, or ended well while nobody followed it.

        Otherwise its folder is emptied. A job with another identity that works there is stopped.
        """
        told = read_json(self.folder / "job.json") or {}
        lives = bool(told) and self.lives()
        if told.get("identity") == self.identity:
            if lives or any(each["status"] == 0 for each in self.ended()):
                return True
        elif lives:
            self.stop()
        clear(self.folder)
        self._read = 0
        return False

    def prepare(
        self, where: Path, environment: Mapping[str, str], defaults: Mapping[str, str]
    ) -> None:
        """Write down what the job is told.

        where: its working directory. defaults: variables that a value of the job's machine beats.
        """
        told = {"identity": self.identity, "folder": str(where)}
        text = json.dumps({**told, "environment": dict(environment), "defaults": dict(defaults)})
        with open(self.folder / "job.json", "w", opener=for_the_owner) as file:
            file.write(text)

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the command; nothing of this process's own environment is added to it."""
        told = read_json(self.folder / "job.json") or {}
        with (self.folder / "output").open("wb") as output:
            self.child = subprocess.Popen(
                command,
                cwd=told["folder"],
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C is for the orchestrator
            )
        (self.folder / "process.json").write_text(json.dumps(record_of(self.child.pid)))

    def let_others_end(self, say: Callable[[str], object]) -> None:
        """Wait for jobs of this lake that lost their orchestrator, and with it their place.

        They hold a GPU that the pool takes for free. say: called with a sentence for each.
        """
        for path in sorted(self.folder.parent.parent.glob("*/*/process.json")):
            other = JobProcess(path.parent, "", 0.0)
            if other.folder != self.folder and other.abandoned():
                say(f"the job of {other.folder} has no orchestrator; this one waits for its end "
                    f"(to stop it: echo 60 > {other.folder / 'stop'})")  # fmt: skip
                while other.abandoned():
                    time.sleep(5 * POLL_SECONDS)

    def abandoned(self) -> bool:
        """Return whether the job goes on and nobody on this machine follows it."""
        by = read_json(self.folder / "followed.json")
        here = by is not None and by["host"] == socket.gethostname()
        return here and process_of(by) is None and self.lives()

    def follow(self) -> int | None:
        """Forward what the job says until it ends; return its exit status, None where unknown.

        When this process is interrupted, the job is stopped first.
        """
        (self.folder / "followed.json").write_text(json.dumps(record_of(os.getpid())))
        try:
            while self.works():
                self._forward()
                time.sleep(POLL_SECONDS)
        except BaseException:
            self.stop()
            raise
        self._forward()
        return self.child.returncode if self.child else None

    def works(self) -> bool:
        """Return whether the job goes on; behind a broken connection it may, without its prefix."""
        if self.child is None:
            return self.lives()
        status = self.child.poll()
        return status is None or (status != 0 and self._beats())

    def lives(self) -> bool:
        """Return whether a job that another process started goes on."""
        return self._prefix() is not None or self._beats()

    def stop(self) -> None:
        """Ask the job to save and stop, wait for that, then kill what is left on this machine."""
        (self.folder / "stop").write_text(str(self.grace))
        if self._beat() is None and (prefix := self._prefix()):  # queued: nobody reads that yet
            os.killpg(prefix, signal.SIGTERM)
        deadline = time.monotonic() + self.grace + SILENCE_SECONDS
        while time.monotonic() < deadline and self.works():
            self._forward()
            time.sleep(POLL_SECONDS)
        if prefix := self._prefix():
            os.killpg(prefix, signal.SIGKILL)
        if self.child is not None:
            self.child.wait()
        self._forward()

    def ended(self) -> list[dict[str, Any]]:
        """Return how the processes of the job say that they ended, {"status", "said"} each."""
        found = [read_json(path) for path in sorted(self.folder.glob("ended-*"))]
        return [each for each in found if each is not None]

    def _prefix(self) -> int | None:
        """Return the id of the prefix's process where it runs on this machine."""
        return process_of(read_json(self.folder / "process.json"))

    def _beat(self) -> str | None:
        try:
            return (self.folder / "alive").read_text()
        except OSError:
            return None

    def _beats(self) -> bool:
        """Return whether the job shows, wherever it is, that it lives."""
        before, deadline = self._beat(), time.monotonic() + SILENCE_SECONDS
        while time.monotonic() < deadline and not (self.folder / "ended-0").exists():
            if self._beat() != before:
                return True
            time.sleep(POLL_SECONDS)
        return False

    def _forward(self) -> None:
        """Write what is new of the job's output to this process's stderr."""
        try:
            with (self.folder / "output").open("rb") as output:
                output.seek(self._read)
                new = output.read()
        except OSError:
            return
        self._read += len(new)
        text = self._decoder.decode(new)
        sys.stderr.write(text)
        self.words.extend(line for line in text.splitlines() if line.strip())


def behind(launch: Sequence[str], command: Sequence[str]) -> list[str]:
    """Return a whole command line behind a study's prefix."""
    name = Path(launch[0]).name if launch else ""
    if name in ("accelerate", "torchrun"):
        # They start Python themselves, unless they are told that they get a whole command.
        return [*launch, "--no_python" if name == "accelerate" else "--no-python", *command]
    if name == "ssh":  # the far shell reads the words once more
        return [*launch, *map(shlex.quote, command)]
    return [*launch, *command]


def record_of(pid: int) -> dict[str, Any]:
    """Return what tells a process from every other one."""
    begun = psutil.Process(pid).create_time()
    return {"host": socket.gethostname(), "pid": pid, "begun": begun}


def process_of(record: Mapping[str, Any] | None) -> int | None:
    """Return the id of a process that was put down, None where it does not run on this machine."""
    if record is None or record["host"] != socket.gethostname():
        return None
    try:
        process = psutil.Process(record["pid"])
        same = abs(process.create_time() - record["begun"]) < 1
        return process.pid if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def clear(folder: Path) -> None:
    """Empty a job's folder; its environment may hold keys."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return what a file holds, None where there is none or half of one."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found


def for_the_owner(path: str, flags: int) -> int:
    """Open a file that only its owner can read."""
    return os.open(path, flags, 0o600)
