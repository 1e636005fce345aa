"""INPUT.EXIF and INPUT.BACKGROUND: in a run, in its model, and where they cannot be honoured."""

import pytest
import torch
from PIL import Image

import promptbias
from promptbias.engine import data
from promptbias.utils.errors import UserError


def test_a_model_reads_images_as_its_run_did(tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    for part in ("train", "test"):
        for name, shade in (("bright", 200), ("dark", 40)):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            Image.new("LA", (64, 48), (shade, 90)).save(tmp_path / "images" / part / name / "a.png", exif=exif)
    settings = ["INPUT.BACKGROUND", "black", "INPUT.EXIF", "True"]
    model = promptbias.tune(tmp_path / "images", "ZeroshotCLIP", "tiny", 1, output=tmp_path / "run", settings=settings)
    assert "is put on black (INPUT.BACKGROUND)" in capsys.readouterr().err
    half = Image.new("RGBA", (64, 48), (255, 255, 255, 128))
    half.paste((0, 0, 0, 0), (0, 0, 64, 10))
    half.save(tmp_path / "half.png", exif=exif)
    seen = Image.new("RGB", (64, 48), (128, 128, 128))
    seen.paste((0, 0, 0), (0, 0, 64, 10))
    expected = model.predict(seen.transpose(Image.Transpose.ROTATE_270)).probabilities
    assert torch.equal(model.predict(tmp_path / "half.png").probabilities, expected)
    relevancy = promptbias.relevancy(model, tmp_path / "half.png", "dark").patches
    assert torch.equal(
        relevancy, promptbias.relevancy(model, seen.transpose(Image.Transpose.ROTATE_270), "dark").patches
    )


def test_a_background_that_is_no_colour(config):
    cfg = config()
    data.check_reading(cfg)
    cfg.INPUT.BACKGROUND = "transparent"
    with pytest.raises(UserError, match='INPUT.BACKGROUND is "transparent", but must be a colour such as white'):
        data.check_reading(cfg)


def test_a_dassl_that_does_not_know_these_keys(config, monkeypatch):
    monkeypatch.setattr(data, "dassl_is_ours", lambda: False)
    cfg = config()
    data.check_reading(cfg)
    cfg.INPUT.EXIF = True
    with pytest.raises(UserError, match="the installed Dassl reads images in its own way, without INPUT.EXIF"):
        data.check_reading(cfg)
