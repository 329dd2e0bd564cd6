"""Ink, slant and thirds on shapes whose answer is known."""

import numpy as np
import pytest

from examples.miniature.measures import SIDE, Thirds, grey, ink, slant


def stroke(shear: float, width: int) -> np.ndarray:
    """Draw a vertical stroke whose top is shifted right by `shear` for each pixel of height."""
    image = np.zeros((SIDE, SIDE))
    for row in range(4, 28):
        start = round(16 - width / 2 + shear * (16 - row))
        image[row, start : start + width] = 1
    return image


def test_ink_is_the_mean_brightness():
    images = np.stack([stroke(0, 2), stroke(0, 6)])
    assert ink(images) == pytest.approx([24 * 2 / SIDE**2, 24 * 6 / SIDE**2])


@pytest.mark.parametrize("shear", [-0.3, 0.0, 0.3])
def test_slant_is_the_shear_and_positive_to_the_right(shear: float):
    assert slant(stroke(shear, 4)[None])[0] == pytest.approx(shear, abs=0.03)


def test_an_empty_image_has_no_slant():
    assert slant(np.zeros((1, SIDE, SIDE)))[0] == 0


def test_thirds_are_cut_within_each_digit():
    labels = np.repeat(np.arange(10), 30)
    values = labels * 100.0 + np.tile(np.arange(30), 10)
    parts = Thirds.of(values, labels).part(values, labels)
    for digit in range(10):
        assert np.bincount(parts[labels == digit]).tolist() == [10, 10, 10]


def test_agreement_sums_to_one_and_prefers_the_right_third():
    labels = np.repeat(np.arange(10), 30)
    thirds = Thirds.of(np.tile(np.arange(30.0), 10), labels)
    for value, part in ((2.0, 0), (14.5, 1), (27.0, 2)):
        agreement = [thirds.agreement(value, 3, i) for i in range(3)]
        assert sum(agreement) == pytest.approx(1)
        assert np.argmax(agreement) == part
        assert agreement[part] > 0.7


def test_grey_reads_any_mode_and_size():
    from PIL import Image

    white = Image.new("RGB", (64, 64), (255, 255, 255))
    assert grey(white) == pytest.approx(np.ones((SIDE, SIDE)))
