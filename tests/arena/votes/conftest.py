"""The fixtures of the votes' tests."""

from vote_files import (  # noqa: F401
    case,
    read_records,
    read_text,
    shared,
    votes_of,
    write_json,
    write_votes,
)
