"""The sentences of the miniature, and which of them are held out."""

from collections import Counter

import pytest

from examples.miniature.captions import (
    Attributes,
    caption,
    evaluation_prompts,
    every_caption,
    read_caption,
    voted_prompts,
)


def test_a_caption_says_what_was_asked():
    assert caption(Attributes(7, weight=2, slant=2), 0) == "a bold seven leaning right"
    assert caption(Attributes(8), 0) == "an eight"
    assert caption(Attributes(1, weight=0), 3) == "the number one in thin strokes"


def test_every_caption_reads_back_what_it_says():
    for digit in range(10):
        for weight in (None, 0, 1, 2):
            for slant in (None, 0, 1, 2):
                for phrasing in range(4):
                    asked = Attributes(digit, weight, slant)
                    assert read_caption(caption(asked, phrasing)) == asked


def test_captions_are_all_different():
    assert len(set(every_caption())) == len(every_caption()) == 640


@pytest.mark.parametrize("text", ["a bold cat", "a one or a two"])
def test_a_prompt_without_one_digit_is_refused(text: str):
    with pytest.raises(ValueError, match="names one digit"):
        read_caption(text)


def test_held_out_combinations_are_never_voted_on_and_balanced():
    voted = {read_caption(text) for text in voted_prompts()["prompt"]}
    held_out = [read_caption(text) for text in evaluation_prompts()["prompt"]]
    assert not voted & set(held_out)
    assert set(Counter(a.digit for a in held_out).values()) == {12}
    assert set(Counter(a.weight for a in held_out).values()) == {40}
    assert set(Counter(a.slant for a in held_out).values()) == {40}
