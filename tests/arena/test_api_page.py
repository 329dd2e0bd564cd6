"""docs/api.md says what the docstrings say."""

import types
from dataclasses import dataclass

import arena
from arena.export import Export, export_pairs
from arena.ratings.table import Ratings
from docs.api import PAGE, page


@dataclass
class Thing:
    """A thing with <b>marks</b>.

    sizes: in metres, of every side that it has.

        Thing([1.0, 2.0]).longest()   # <2.0>
    """

    sizes: list[float]
    name: str = "a name that is so long that the signature is broken into lines, one for each"
    _hidden: int = 0

    def longest(self, least: float = 0.0) -> float:
        """Return the longest side."""
        return max(*self.sizes, least)

    @property
    def sides(self) -> int:
        """How many sides."""
        return len(self.sizes)

    def _inner(self) -> None:
        """Not shown."""


def test_the_page_is_what_the_docstrings_say():
    assert PAGE.read_text(encoding="utf-8") == page(arena), "run `python -m docs.api`"


def test_every_public_name_has_its_signature_as_written_and_its_docstring():
    module = types.ModuleType("module")
    module.__all__ = ["Thing", "export_pairs", "LIMIT"]
    module.Thing, module.export_pairs, module.LIMIT = Thing, export_pairs, 3
    text = page(module)
    assert "- [`export_pairs`](#export_pairs)" in text
    assert "Thing(\n    sizes: list[float],\n    name: str = " in text
    assert "_hidden" not in text
    assert "_inner" not in text
    assert "### Thing.longest\n\n```python\nlongest(least: float=0.0) -> float\n```" in text
    assert "### Thing.sides\n\n```python\nsides\n```\n\nHow many sides." in text
    assert r"A thing with \<b>marks\</b>." in text
    assert "    Thing([1.0, 2.0]).longest()   # <2.0>" in text
    assert "    gaps: pl.DataFrame,\n    layout: str,\n" in text
    assert ") -> Export\n```" in text
    assert "LIMIT = 3" in text


def test_the_project_s_own_classes_can_be_shown():
    module = types.ModuleType("module")
    module.__all__ = ["Ratings", "Export"]
    module.Ratings, module.Export = Ratings, Export
    text = page(module)
    assert "### Ratings.difference" in text
    assert "read(path: Path | str) -> Ratings\n" in text  # quoted in the source
    assert "    pairs: Counter[str]" in text
