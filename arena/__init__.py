"""The method's statistics as a library: votes, ratings, gaps. No Dagster, MLflow or torch.

    import arena

    reading = arena.read_votes("votes.csv")            # any published layout; rejections are named
    ratings = arena.TrueSkill().fit(reading.votes)     # or Thurstone(), BradleyTerry()
    ratings.win_probability("flux", "sdxl")
    gaps = arena.pairwise_gaps(reading.votes, ratings)
    gaps, report = arena.joint_gaps(reading.votes, ratings)

Frames may be polars or pandas. Importing this loads nothing; each name is loaded when it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arena.export import export_pairs
    from arena.gaps.joint import joint_gaps
    from arena.gaps.pairwise import capability_gaps, pairwise_gaps
    from arena.ratings.batch import BradleyTerry, Thurstone
    from arena.ratings.table import Ratings
    from arena.ratings.trueskill import TrueSkill
    from arena.votes.faults import VotesError
    from arena.votes.images import Images
    from arena.votes.options import Options
    from arena.votes.read import Reading, read_votes

_HOMES = {
    "BradleyTerry": "arena.ratings.batch",
    "Images": "arena.votes.images",
    "Options": "arena.votes.options",
    "Ratings": "arena.ratings.table",
    "Reading": "arena.votes.read",
    "Thurstone": "arena.ratings.batch",
    "TrueSkill": "arena.ratings.trueskill",
    "VotesError": "arena.votes.faults",
    "capability_gaps": "arena.gaps.pairwise",
    "export_pairs": "arena.export",
    "joint_gaps": "arena.gaps.joint",
    "pairwise_gaps": "arena.gaps.pairwise",
    "read_votes": "arena.votes.read",
}

__all__ = [
    "BradleyTerry",
    "Images",
    "Options",
    "Ratings",
    "Reading",
    "Thurstone",
    "TrueSkill",
    "VotesError",
    "capability_gaps",
    "export_pairs",
    "joint_gaps",
    "pairwise_gaps",
    "read_votes",
]


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'arena' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
