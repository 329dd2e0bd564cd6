"""What the page needs of a study's TOML: where votes go, how they are read, what is asked about."""

import fnmatch
import glob
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arena.votes.faults import VotesError
from arena.votes.images import Images
from arena.votes.options import Options
from arena.votes.read import read_votes
from arena.votes.sources import as_url
from training.study_file import read_study

# What the page writes, to try whether the study's [votes] reads it.
OUTCOMES = ("a", "b", "tie", "both_bad")
SAMPLE = {"rater": "r", "created_at": "2026-01-01T00:00:00+00:00", "prompt": "p"}
PAIR = SAMPLE | {"model_a": "m", "model_b": "n", "image_a": "i", "image_b": "j"}
PAIRS = [PAIR | {"vote_id": outcome, "outcome": outcome} for outcome in OUTCOMES]
RANKING = SAMPLE | {"vote_id": "v", "models": ["m", "n"], "images": ["i", "j"], "ranks": [1, 2]}


@dataclass(frozen=True)
class Study:
    """One study as the page sees it.

    folder: the TOML's own, which relative image paths start from. landing: the folder that votes
    are written to; listed: whether votes.sources names it. without: raters whose votes count for
    nothing. policies: names in the TOML's order.
    """

    name: str
    folder: Path
    lake: Path
    landing: Path
    listed: bool
    sources: list[Path | str]
    images: Path | None
    network: bool
    options: Options
    without: frozenset[str]
    policies: list[str]
    baseline: str | None

    @property
    def state(self) -> Path:
        """The page's own folder in the lake, with its secret."""
        return self.lake / "voting"

    def reader(self) -> Images:
        """Return the reader of the images that votes name."""
        sources = [self.images] if self.images else []
        return Images(sources, root=self.folder, network=self.network)

    def written(self, image: str) -> str:
        """Return an image's name as a votes file in the landing folder has to spell it.

        Paths are told from that file, unless the study's images are ids in a table of their own.
        """
        path = self.folder / image
        if self.images is None and as_url(image) is None and len(image) < 1000 and path.is_file():
            return os.path.relpath(path, self.landing)
        return image

    def row(self, vote: dict[str, Any]) -> dict[str, Any]:
        """Return a vote also under the names that votes.columns gives its columns."""
        told = self.options.columns.items()
        return vote | {theirs: vote[ours] for ours, theirs in told if ours in vote}

    def reads(self, *sample: dict[str, Any]) -> bool:
        """Tell whether the study's options read such votes of the page as they are meant."""
        with tempfile.TemporaryDirectory(prefix="arenapo-voting-") as folder:
            path = Path(folder) / "votes.jsonl"
            path.write_text("".join(json.dumps(self.row(row)) + "\n" for row in sample))
            try:
                found = read_votes(path, self.options)
            except VotesError:
                return False
        if found.rankings.height:
            return found.rankings.height == len(sample)
        meant = [row["outcome"].replace("both_bad", "tie") for row in sample]
        return found.votes["outcome"].to_list() == meant


def open_study(path: Path) -> Study:
    """Read what the page needs of a study.

    Raises ValueError with one sentence for a file that cannot be read, a missing lake, a salt whose
    variable is not set, and for options under which the page's votes could not be read.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such study; give the path of its TOML")
    toml = read_study(path)
    votes, root = toml.get("votes", {}), toml.get("lake", {}).get("root")
    if root is None or "://" in str(root):
        raise ValueError(f"{path}: lake.root = {root!r}: the voting page needs a local folder")
    sources = [Path(s) if as_url(s) is None else s for s in votes.get("sources", [])]
    found = next((folder for source in sources if (folder := landing_of(source))), None)
    told = {
        key: votes[key] for key in ("format", "columns", "outcomes", "dimension") if key in votes
    }
    images = Path(votes["images"]) if "images" in votes else None
    study = Study(
        name=str(toml.get("study", {}).get("name", path.stem)),
        folder=path.resolve().parent,
        lake=Path(root),
        landing=found or Path(root) / "landing",
        listed=found is not None,
        sources=sources,
        images=images,
        network=bool(toml.get("training_set", {}).get("network", False)),
        options=Options(
            **told,
            images="resolved" if images is None else "ids",
            images_from=path.resolve().parent,
            image_roots=[Path(folder) for folder in votes.get("image_roots", [])],
        ),
        without=frozenset(votes.get("without", ())),
        policies=[str(policy.get("name")) for policy in toml.get("policy", [])],
        baseline=toml.get("study", {}).get("baseline"),
    )
    if not study.reads(*PAIRS):
        raise ValueError(
            f"{path}: votes.format, votes.columns or votes.outcomes would misread the page's "
            "votes, which are a table of model_a, model_b and outcome; leave them out here, and "
            "convert the files that need them"
        )
    return study


def landing_of(source: Path | str) -> Path | None:
    """Return the folder of a source where a new votes-*.jsonl would be found, else None."""
    if not isinstance(source, Path):
        return None
    if source.is_dir():
        return source
    plain = glob.has_magic(source.name) and not glob.has_magic(str(source.parent))
    return source.parent if plain and fnmatch.fnmatch("votes-1.jsonl", source.name) else None
