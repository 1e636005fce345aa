"""Digits: written once from scikit-learn, also by several processes at a time."""

import multiprocessing
import os
import sys

import numpy as np
import pytest
from loading import load
from PIL import Image

from promptbias.datasets.digits import Digits
from promptbias.datasets.sources import SOURCES
from promptbias.utils.errors import UserError


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    load(root, "Digits")
    return root


def test_digits_are_scikit_learns(digits):
    from sklearn.datasets import load_digits

    source = load_digits()
    data = load(digits, "Digits")
    everything = [*data.train_x, *data.val, *data.test]
    assert len({d.impath for d in everything}) == len(everything) == 1797
    assert data.classnames == ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    for datum in everything[::50]:
        number = int(os.path.basename(datum.impath)[:-4])
        pixels = np.asarray(Image.open(datum.impath))
        assert pixels.shape == (8, 8) and datum.label == source.target[number]
        assert np.abs(pixels * (16 / 255) - source.images[number]).max() < 0.05
    assert [len(data.train_x), len(data.val), len(data.test)] == list(SOURCES["digits"].counts)


def test_digits_need_scikit_learn_only_to_be_written(digits, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert len(load(digits, "Digits", 16).train_x) == 160
    with pytest.raises(UserError, match="pip install scikit-learn"):
        load(tmp_path, "Digits")


def test_a_digits_folder_without_images_gets_them(tmp_path):
    (tmp_path / "digits" / "something").mkdir(parents=True)
    assert len(load(tmp_path, "Digits").test) == 540


def test_digits_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the images"):
        load(tmp_path / "file", "Digits")


def test_three_processes_write_the_same_digits_at_once(tmp_path):
    processes = multiprocessing.get_context("fork")
    running = [processes.Process(target=Digits.write, args=(str(tmp_path / "digits"),)) for _ in range(3)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert [process.exitcode for process in running] == [0, 0, 0]
    assert sorted(os.listdir(tmp_path)) == ["digits"]
    assert sum(len(files) for *_, files in os.walk(tmp_path)) == 1797
