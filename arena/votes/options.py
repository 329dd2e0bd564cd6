"""What is asked of the reader of votes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from arena.schema import OUTCOMES, VOTES
from arena.votes.faults import VotesError
from arena.votes.formats import FORMATS


@dataclass(frozen=True)
class Options:
    """How files are read.

    format: a key of `formats.FORMATS` where the columns should not decide. columns: the schema's
    column -> the file's, for a table with names of its own. outcomes: a word of the file -> a, b or
    tie. dimension: which one, where a file has several. salt: raters become keyed hashes under it.
    images: what a path in image_a or image_b becomes. "as written" leaves it, and tells equal paths
    of different folders apart; "resolved" makes one that names a file beside the votes file
    absolute, or relative to `images_from`, so that no table holds a path of this machine; "ids"
    says that they are names in a table of images, and no paths. image_roots: resolved paths lead
    into the votes file's folder, into `images_from` or into one of these; others become null.
    """

    format: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    outcomes: Mapping[str, str] = field(default_factory=dict)
    dimension: str | None = None
    salt: str | None = None
    images: str = "as written"
    images_from: Path | None = None
    image_roots: Sequence[Path] = ()

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            known = ", ".join(FORMATS)
            raise VotesError(f"no votes format is called {self.format!r}; there are {known}")
        for name in self.columns:
            if name not in VOTES and name != "count":
                raise VotesError(
                    f"no column of a vote is called {name!r}; there are {', '.join(VOTES)}"
                )
        for word, outcome in self.outcomes.items():
            if outcome not in OUTCOMES:
                raise VotesError(f"the outcome {word!r} is said to be {outcome!r}; say a, b or tie")


AS_THEY_ARE = Options()
