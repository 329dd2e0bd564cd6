"""docs/guide/training.md names the test that holds each of its promises: there is such a test."""

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs/guide/training.md").read_text()


def test_every_test_that_the_page_names_is_there():
    table = PAGE.partition("## What holds each promise")[2]
    rows = [line.split("|")[2].strip() for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    for named in (part for row in rows for part in row.split("; ")):
        files, _, names = named.partition(": ")
        text = "".join((HERE / f"{file}.py").read_text() for file in files.split(", "))
        found = re.findall(r"def test_(\w+)", text)
        for name in filter(None, names.split(", ")):
            assert any(name in each for each in found), f"{files}: {name}"
