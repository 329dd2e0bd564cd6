"""The sentences of this world: what can be said of a digit, and what a sentence says.

Each word in a caption can be checked on an image (`measures`, `classifier`). Here also: which
sentences the votes are about, and which are held out for evaluation.
"""

from dataclasses import dataclass
from itertools import product

import polars as pl

NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WEIGHTS = ("thin", "regular", "bold")
SLANTS = ("left", "upright", "right")
LEANS = ("leaning left", "standing upright", "leaning right")
PHRASINGS = (
    "a{weight} {numeral}{lean}",
    "a handwritten{weight} {numeral}{lean}",
    "a drawing of a{weight} {numeral}{lean}",
    "the number {numeral}{lean}{strokes}",
)


@dataclass(frozen=True)
class Attributes:
    """What a caption asks for; None where it leaves the choice open."""

    digit: int
    weight: int | None = None
    slant: int | None = None


def caption(attributes: Attributes, phrasing: int) -> str:
    """Say the attributes in one of the phrasings, such as "a bold seven leaning right"."""
    weight = "" if attributes.weight is None else f" {WEIGHTS[attributes.weight]}"
    text = PHRASINGS[phrasing].format(
        numeral=NUMERALS[attributes.digit],
        weight=weight,
        lean="" if attributes.slant is None else f" {LEANS[attributes.slant]}",
        strokes=f" in{weight} strokes" if weight else "",
    )
    return text.replace("a eight", "an eight")


def read_caption(text: str) -> Attributes:
    """Return what a caption asks for.

    Raises ValueError where the text names no digit, or two.
    """
    words = text.lower().split()
    digits = [i for i, numeral in enumerate(NUMERALS) if numeral in words]
    if len(digits) != 1:
        raise ValueError(f"a prompt of the miniature names one digit, zero to nine, not {text!r}")
    weight = next((i for i, word in enumerate(WEIGHTS) if word in words), None)
    slant = next((i for i, word in enumerate(SLANTS) if word in words), None)
    return Attributes(digits[0], weight, slant)


def every_caption() -> list[str]:
    """Return all captions this world knows, whole and partial, in every phrasing."""
    options = product(range(10), (None, 0, 1, 2), (None, 0, 1, 2), range(len(PHRASINGS)))
    return [caption(Attributes(d, w, s), phrasing) for d, w, s, phrasing in options]


def is_held_out(attributes: Attributes) -> bool:
    """Tell whether a combination is kept for evaluation.

    One in three: the Latin square weight + slant + digit = 0 (mod 3), so that every digit, weight
    and slant is equally common on both sides, and an evaluation prompt asks for known words in a
    combination that no vote was about.
    """
    if attributes.weight is None or attributes.slant is None:
        return False
    return (attributes.weight + attributes.slant + attributes.digit) % 3 == 0


def voted_prompts() -> pl.DataFrame:
    """Return the 360 prompts of the votes: 60 combinations in four phrasings, 120 partial."""
    texts = [
        caption(attributes, phrasing)
        for d, w, s in product(range(10), range(3), range(3))
        if not is_held_out(attributes := Attributes(d, w, s))
        for phrasing in range(4)
    ]
    texts += [
        caption(attributes, phrasing)
        for digit, part in product(range(10), range(3))
        for attributes in (Attributes(digit, weight=part), Attributes(digit, slant=part))
        for phrasing in range(2)
    ]
    return _numbered(texts, "p")


def evaluation_prompts() -> pl.DataFrame:
    """Return the 120 evaluation prompts: the 30 combinations held out, in four phrasings."""
    texts = [
        caption(attributes, phrasing)
        for d, w, s in product(range(10), range(3), range(3))
        if is_held_out(attributes := Attributes(d, w, s))
        for phrasing in range(4)
    ]
    return _numbered(texts, "e")


def _numbered(texts: list[str], letter: str) -> pl.DataFrame:
    ids = [f"{letter}{i:03d}" for i in range(len(texts))]
    return pl.DataFrame({"prompt_id": ids, "prompt": texts})
