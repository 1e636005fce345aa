"""The datasets that write themselves: the same bits everywhere, splits without leaks, masks that fit."""

import hashlib
import itertools
import math
import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loading import load, plain
from PIL import Image
from scipy.ndimage import map_coordinates

from promptbias.datasets import cluttered_digits, digits, drawing, letters, shifted_digits
from promptbias.datasets.cluttered_digits import ClutteredDigits, clutter
from promptbias.datasets.digits import Digits, handwriting
from promptbias.datasets.letters import FONTS, Letters, LowerLetters
from promptbias.datasets.shifted_digits import InvertedDigits, NoisyDigits, RotatedDigits, TexturedDigits
from promptbias.datasets.sources import SOURCES

COUNTS = dict(letters.COUNTS)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data folder where only 300 digits and a few letters of each font are written, to be quick."""
    some = handwriting()[:300]
    with pytest.MonkeyPatch.context() as patch:
        for module in (digits, cluttered_digits, shifted_digits):
            patch.setattr(module, "handwriting", lambda: some)
        patch.setattr(letters, "COUNTS", {"train": 6, "val": 2, "test": 4})
        yield tmp_path_factory.mktemp("embedded")


@pytest.mark.parametrize(
    "dataset, sha256",
    [
        (Digits, "07d6cdb83a03741e220fad13f6f9bba2d1440fe8a25c1fde757fa62c6ec944e9"),
        (Letters, "198d2f61c266b3db1bb2b35b3573d67b9e46300771dd56b099d867f8af9bf71c"),
        (LowerLetters, "0f8e776860cf64d3b63fb3789558debb2dc8b2c8cca813932a53abaad38d2f6c"),
        (ClutteredDigits, "3c0e71d19c2be8a4cfdd79093a8ff1a8b410831d5afb4f506773d8bd5eedaf1e"),
        (InvertedDigits, "96c23766f6670a8ecca5540fa2d99408db6e176f6c2d6f8fe07c37e9349ebd45"),
        (TexturedDigits, "5f672007ebc23dc60604cfeeea7265c571e71067c184442f71e8d77036157f88"),
        (NoisyDigits, "1cbabccb938cbe5d2b3b76a22eb85109f919535e204e2da54f04d5ad2a51159b"),
        (RotatedDigits, "79629cade8972ac590355989be7c1c000476eb5b53d70a423bfb2a50cbe65222"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_same_bits_everywhere(dataset, sha256, monkeypatch):
    """The first files, which were drawn elsewhere before."""
    monkeypatch.setattr(letters, "COUNTS", COUNTS)  # other tests have fewer
    content = hashlib.sha256()
    for path, pixels in itertools.islice(dataset.draw(), 60):
        content.update(path.encode() + str(pixels.shape).encode() + pixels.tobytes())
    assert content.hexdigest() == sha256


def test_letters_are_split_by_fonts(root):
    data = load(root, "Letters")
    assert data.classnames == list("abcdefghijklmnopqrstuvwxyz")
    assert [len(data.train_x), len(data.val), len(data.test)] == [26 * 6, 26 * 2, 26 * 4]
    assert SOURCES["letters"].counts == (26 * 36, 26 * 8, 26 * 20) and Letters.count == 26 * (36 + 8 + 20)
    used = {}
    for part, items in (("train", data.train_x), ("val", data.val), ("test", data.test)):
        used[part] = {os.path.basename(path)[:-4].split("_")[1] for path, _, _ in plain(items)}
        assert used[part] == set(FONTS[part])
        assert len(set(Counter(label for _, label, _ in plain(items)).values())) == 1  # as many of each class
    assert not used["train"] & used["test"] and not used["val"] & (used["train"] | used["test"])
    for half in ("base", "new"):
        assert load(root, "Letters", 2, SUBSAMPLE_CLASSES=half).num_classes == 13


def test_cluttered_and_shifted_digits_have_the_split_of_digits(root):
    def of(name, part):
        return {"/".join(path.split(os.sep)[-2:]) for path, _, _ in plain(getattr(load(root, name), part))}

    for part in ("train_x", "val", "test"):
        assert of("ClutteredDigits", part) == of("Digits", part)
    assert of("RotatedDigits", "test") == of("RotatedDigits", "train_x") == of("Digits", "test")
    few = load(root, "RotatedDigits", 1, SUBSAMPLE_CLASSES="base")  # a test set for any run
    assert len(few.test) == len(load(root, "Digits").test) and few.num_classes == 10


def test_masks_are_where_the_digit_is(root):
    """Inside is brighter than outside in nearly all of them, and the mask is the digit, enlarged and moved."""
    data, brighter = load(root, "ClutteredDigits"), []
    for path, _, _ in plain(data.test):
        mask = np.asarray(Image.open(path.replace("/images/", "/masks/"))) > 0
        picture = np.asarray(Image.open(path).convert("L"), float)
        assert set(np.unique(mask)) <= {False, True} and 0.01 < mask.mean() < 0.6
        brighter.append(picture[mask].mean() > picture[~mask].mean() + 30)
    assert np.mean(brighter) > 0.95

    ink = handwriting()[7][0]
    _, mask = clutter(ink, drawing.Random(5))
    rows, columns = np.nonzero(mask)
    side = (np.ptp(rows) + np.ptp(columns)) / (
        np.ptp(np.nonzero(ink > 0.35)[0]) + np.ptp(np.nonzero(ink > 0.35)[1]) + 2
    )
    assert 30 / 8 * 0.8 < side < 54 / 8 * 1.2


# drawing


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_bilinear_is_scipys(seed):
    random = np.random.RandomState(seed)
    image, x, y = random.rand(6, 9), 12 * random.rand(40) - 2, 10 * random.rand(40) - 2
    padded = np.pad(image, 4)
    expected = map_coordinates(padded, [y - 0.5 + 4, x - 0.5 + 4], order=1)
    assert np.allclose(drawing.bilinear(image, x, y), expected, atol=1e-12)


@given(st.lists(st.tuples(*[st.floats(-5, 25)] * 4), min_size=1, max_size=4), st.floats(1, 6))
@settings(max_examples=40, deadline=None)
def test_strokes_are_the_pixels_near_a_segment(segments, width):
    lines = np.array(segments).reshape(-1, 2, 2)
    expected = np.zeros((20, 20))
    for row, column in itertools.product(range(20), range(20)):
        point, distances = np.array([column + 0.5, row + 0.5]), []
        for start, end in lines:
            steps = np.linspace(0, 1, 400)[:, None]
            distances.append(np.linalg.norm(start + steps * (end - start) - point, axis=1).min())
        expected[row, column] = min(max(width / 2 + 0.5 - min(distances), 0), 1)
    assert np.abs(drawing.strokes(lines, width, 20) - expected).max() < 0.05


@given(st.floats(-2, 2))
def test_turning(t):
    angle = 2 * math.atan(t)
    assert np.allclose(
        drawing.turned(t), [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], atol=1e-12
    )


def test_blurring_keeps_the_sum_of_what_is_inside():
    image = np.zeros((15, 15))
    image[7, 7] = 1
    kernel = np.array([1, 2, 1]) / 4
    assert np.allclose(drawing.blurred(image, 1)[6:9, 6:9], np.outer(kernel, kernel))
    assert drawing.blurred(image, 3).sum() == pytest.approx(1)
