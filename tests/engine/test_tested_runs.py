"""A run that only tested what another had trained can be loaded and analysed, on the images that it tested."""

import contextlib
import io
import shutil

import pytest
import torch
from dassl.engine import TRAINER_REGISTRY

import promptbias
from promptbias.analysis.comparison import Comparison
from promptbias.engine.load import load_config, load_trainer
from promptbias.utils.errors import UserError


@pytest.fixture(scope="module")
def trained(train_run):
    return train_run("to-be-tested", "IVLP")


@pytest.fixture
def copied(trained, tmp_path):
    """A copy of the trained run, which may be damaged."""
    return shutil.copytree(trained, tmp_path / "trained")


@pytest.fixture
def tested(copied, tmp_path):
    """A test of that copy."""
    cfg, trainer_class = load_config(str(copied))
    cfg.OUTPUT_DIR = str(tmp_path / "tested")
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = TRAINER_REGISTRY.get(trainer_class.__name__)(cfg)
        trainer.load_model(str(copied))
        trainer.test()
    return cfg.OUTPUT_DIR


@torch.no_grad()
def test_it_is_the_model_that_it_tested(trained, tested, images):
    expected = promptbias.load(trained)(images)
    assert torch.equal(promptbias.load(tested)(images), expected)
    assert torch.equal(load_trainer(tested).model(images), expected)


def test_it_has_no_few_shot_images(tested):
    comparison = Comparison(tested)
    assert len(list(comparison.images())) > 0
    with pytest.raises(UserError, match="only tested what another run had trained, and has no few-shot images"):
        next(comparison.batches(split="train"))


def test_what_it_tested_must_be_as_it_was(copied, tested):
    (path,) = copied.glob("*/model.pth.tar-*")
    whole = path.read_bytes()
    path.write_bytes(whole + b" ")
    with pytest.raises(UserError, match="which has changed since; test again"):
        promptbias.load(tested)
    path.unlink()
    with pytest.raises(UserError, match="which does not exist; put it back, or test again"):
        promptbias.load(tested)
    path.write_bytes(whole)
    promptbias.load(tested)
