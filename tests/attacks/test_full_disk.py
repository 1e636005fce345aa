"""A disk that is really full: a small tmpfs, on which every kind of file that we write runs out of room."""

import os
import subprocess

import pytest
import torch

from promptbias.analysis import figures
from promptbias.engine.predictions import Prediction, write_predictions
from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write
from promptbias.utils.tensor_files import save_tensors

KIB = 4, 52, 96  # of room


def text(folder):
    with atomic_write(os.path.join(folder, "text.json")) as file:
        file.write("7" * 300_000)


def figure(folder):
    figure, _ = figures.subplots(4, 4)
    figures.save(figures.Result("", figures={"wide": figure}, arrays={"x": torch.rand(40_000).numpy()}), folder, "wide")


WRITERS = {
    "checkpoint": lambda folder: save_tensors({"x": torch.rand(50_000)}, os.path.join(folder, "model.pth.tar-1")),
    "text": text,
    "predictions": lambda folder: write_predictions([Prediction("a" * 100, "b", "c", 0.5)] * 2000, folder),
    "figure": figure,
}


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(kib): a folder with so much room."""
    mounted = []

    def mount(kib):
        folder = tmp_path / f"disk{kib}"
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip("mounting a small disk needs root")
        mounted.append(folder)
        return str(folder)

    yield mount
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("kind", WRITERS)
def test_no_room_is_one_sentence_and_nothing_half_written(kind, small_disk, tally):
    for kib in KIB:
        folder = small_disk(kib)
        with pytest.raises(UserError) as caught:
            WRITERS[kind](folder)
        assert folder in str(caught.value) and "\n" not in str(caught.value)
        whole = [name for name in os.listdir(folder) if kind == "figure" and name.endswith((".png", ".pdf"))]
        assert os.listdir(folder) == whole  # of a figure's files those that had room may stay
        tally(f"one sentence: {kind}")
