"""A run that cannot be used: each command that takes one ends in one sentence, and writes nothing."""

import os
import shutil

import pytest
import torch
from PIL import Image
from versions import needs_packages

from promptbias import cli
from promptbias.model.loading import import_clip
from promptbias.utils.errors import UserError
from promptbias.utils.seals import read_text, seal_text


@pytest.fixture(scope="module")
def finished(train_run):
    return train_run("bad-runs", "BiasTuning")


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A CLIP that sees the same images as the run's, but is half as wide."""
    _, model = import_clip()
    path = tmp_path_factory.mktemp("weights") / "narrow.pt"
    torch.save(model.CLIP(32, 32, 3, 64, 8, 77, 49408, 64, 1, 3).float().state_dict(), path)
    return str(path)


@pytest.fixture
def edited(finished, tmp_path):
    """edited(old, new): a copy of the run with another config."""

    def edit(old, new):
        folder = tmp_path / "run"
        shutil.copytree(finished, folder)
        text = read_text(folder / "config.yaml")
        assert old in text
        (folder / "config.yaml").write_text(seal_text(text.replace(old, new)))
        return folder

    return edit


@pytest.fixture(params=["predict", "explain", "export"])
def refused(request, tmp_path):
    """The message of a command on a run, one image given; nothing is there afterwards that was not before."""
    image, out = str(tmp_path / "x.png"), str(tmp_path / "out")
    Image.new("RGB", (32, 32)).save(image)
    words = {
        "predict": [image],
        "explain": [image, "--out", out],
        "export": ["--to", "clip", "--out", out, "--images", image],
    }

    def of(run):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(UserError) as error:
            cli.main([request.param, str(run), *words[request.param]])
        assert sorted(tmp_path.rglob("*")) == before and "\n" not in str(error.value)
        return str(error.value)

    return of


def test_an_unfinished_run(edited, refused):
    run = edited("TRAINER", "TRAINER")
    os.remove(run / "results.json")
    assert "is not finished (results.json is missing); the command that started it resumes it" in refused(run)


def test_a_run_of_another_version(edited, refused):
    said = refused(edited("  BIASTUNING:\n", "  BIASTUNING:\n    FROM_LATER: 1\n"))
    assert "is not of this version of promptbias (there is no config key TRAINER.BIASTUNING.FROM_LATER" in said


def test_weights_of_another_architecture(edited, refused, weights_file, narrow):
    said = refused(edited(f"NAME: {weights_file}\n", f"NAME: {narrow}\n"))
    assert said.endswith("and the CLIP, here a ViT of width 64, 3 blocks and patches of 8 pixels")


@needs_packages("huggingface_hub")
def test_weights_on_the_hub_without_network(edited, refused, weights_file, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = refused(edited(f"NAME: {weights_file}\n", "NAME: hf:nobody/nothing\n"))
    assert "nobody/nothing is not in the cache of the hub" in said and "HF_HOME names another place" in said


def test_an_image_that_is_none(finished, tmp_path):
    (tmp_path / "note.png").write_text("not an image")
    with pytest.raises(UserError, match=r"note.png cannot be read as an image"):
        cli.main(["export", finished, "--to", "clip", "--out", f"{tmp_path}/out", "--images", f"{tmp_path}/note.png"])
    assert os.listdir(tmp_path) == ["note.png"]
