"""Read spoiled files in a process that has 2 GB more than it began with, and 20 seconds for each.

    python reading_process.py KIND FIRST COUNT FOLDER

The last line of FOLDER/at is the file it is at, so whoever started it knows which one killed it.
Each fault is a line of JSON on stdout.
"""

import json
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

from hostile import seeds, spoiled

MEMORY, SECONDS = 2 << 30, 20


def read_votes(path: Path) -> None:
    from arena.votes.faults import VotesError
    from arena.votes.read import read_votes

    try:
        found = read_votes(path)
        assert found.votes["outcome"].is_in(["a", "b", "tie"]).all()
    except VotesError as error:
        sentence(error)


def read_images(path: Path) -> None:
    from arena.votes.images import Images

    if path.suffix not in (".tar", ".parquet"):
        found = Images(root=path.parent).faults([path.name, f"{path.name}::x"])
        assert all(map(str.isprintable, found.values())), found
        return
    try:
        found = Images([path], root=path.parent).faults(["11.png", "1.png", "a", "nothing"])
        assert "nothing" in found
    except ValueError as error:
        sentence(error)


def read_weights(path: Path) -> None:
    from evaluation.errors import EvaluationError
    from evaluation.hub import read_state

    try:
        read_state(path)
    except EvaluationError as error:
        sentence(error)


def read_prompts(path: Path) -> None:
    from evaluation.errors import EvaluationError
    from evaluation.prompts import read_prompts

    try:
        read_prompts(path)
    except EvaluationError as error:
        sentence(error)


def read_ratings(path: Path) -> None:
    from arena.ratings.table import Ratings

    try:
        repr(Ratings.read(path))
    except ValueError as error:
        sentence(error)


READERS = {
    "votes": read_votes,
    "images": read_images,
    "weights": read_weights,
    "prompts": read_prompts,
    "ratings": read_ratings,
}


def sentence(error: Exception) -> None:
    """Hold what a reader says to be one line that is no excuse for having run out of memory."""
    said = str(error)
    assert said, "an error without a word"
    assert "more memory than there is" not in said, said


def main() -> None:
    """Read COUNT files of a kind from number FIRST on."""
    kind, first, count, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    read = READERS[kind]
    for name, content in seeds(kind):  # everything is loaded before memory is counted
        (folder / name).write_bytes(content)
        read(folder / name)
        (folder / name).unlink()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    at = (folder / "at").open("w")
    for number in range(first, first + count):
        at.seek(0)
        at.write(f"{number:>12}\n")
        at.flush()
        name, content = spoiled(kind, number)
        path = folder / name
        path.write_bytes(content)
        signal.alarm(SECONDS)  # nobody catches it: the process ends
        begun = time.monotonic()
        try:
            read(path)
        except BaseException as error:
            told = "".join(traceback.format_exception(error))[-1500:]
            print(json.dumps({"number": number, "name": name, "error": told}), flush=True)
        signal.alarm(0)
        if time.monotonic() - begun > SECONDS / 4:
            print(json.dumps({"number": number, "slow": time.monotonic() - begun}), file=sys.stderr)
        path.unlink()
    print(json.dumps({"read": count}), flush=True)


main()
