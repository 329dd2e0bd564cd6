"""docs/guide/security.md states the limits that are kept."""

import re
from pathlib import Path

from arena.votes import limits

PAGE = Path(__file__).parents[3] / "docs" / "guide" / "security.md"


def test_the_page_states_the_limits_that_are_kept() -> None:
    stated = dict(re.findall(r"^\| `([A-Z_]+)` \| ([\d,]+) \|", PAGE.read_text(), re.MULTILINE))
    assert len(stated) == 12
    for name, value in stated.items():
        assert getattr(limits, name) == int(value.replace(",", "")), name
    kept = {name for name in vars(limits) if name.isupper()}
    assert {name for name in kept if not name.startswith("UNSUSPECTED")} == set(stated)
