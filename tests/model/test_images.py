"""Image files of every kind, as the pictures that CLIP sees."""

import io
import os
import random
import subprocess
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from promptbias.model import images
from promptbias.model.images import ImageError, image_endings, open_image, read_formats, read_image, to_batch
from promptbias.utils.errors import UserError

NOISE = np.random.RandomState(0).randint(0, 256, (12, 20, 4), dtype=np.uint8)
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000", "ICO", "QOI", "AVIF")


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch):
    monkeypatch.setattr(images, "_said", bytearray(len(images.NOTES)))


def saved(path, image, format="PNG", **options):
    image.save(path, format, **options)
    return str(path)


# ---- transparency


@given(seed=st.integers(0, 2**16), background=st.sampled_from(["white", "black", "#204060"]))
@settings(max_examples=30, deadline=None)
def test_transparency_is_composited(tmp_path_factory, seed, background):
    pixels = np.random.RandomState(seed).randint(0, 256, (5, 4, 4), dtype=np.uint8)
    path = saved(tmp_path_factory.getbasetemp() / "a.png", Image.fromarray(pixels, "RGBA"))
    colour = {"white": (255, 255, 255), "black": (0, 0, 0), "#204060": (0x20, 0x40, 0x60)}[background]
    alpha = pixels[..., 3:] / 255.0
    expected = pixels[..., :3] * alpha + np.array(colour) * (1 - alpha)
    assert np.abs(np.asarray(read_image(path, background=background)) - expected).max() <= 0.51


def test_every_mode_with_alpha():
    clear = Image.new("RGBA", (4, 4), (9, 9, 9, 0))
    palette = Image.new("P", (4, 4))
    palette.putpalette([9, 9, 9, 0], "RGBA")
    for image in (clear, clear.convert("LA"), clear.convert("RGBa"), palette, palette.convert("PA")):
        assert np.asarray(open_image(image)).min() == 255, image.mode


def test_a_transparent_colour_of_a_palette_or_of_grey(tmp_path):
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((1, 1), 1)
    for name, image in (("palette.png", palette), ("palette.gif", palette), ("grey.png", Image.new("L", (4, 4), 0))):
        path = saved(tmp_path / name, image, name[-3:].upper(), transparency=0)
        assert read_image(path).getpixel((0, 0)) == (255, 255, 255)
        assert read_image(path, background="black").getpixel((0, 0)) == (0, 0, 0)
    assert read_image(str(tmp_path / "palette.png")).getpixel((1, 1)) == (10, 20, 30)


def test_an_opaque_image_with_alpha_is_what_it_was_and_nothing_is_said(tmp_path, capsys):
    pixels = NOISE.copy()
    pixels[..., 3] = 255
    path = saved(tmp_path / "opaque.png", Image.fromarray(pixels, "RGBA"))
    assert np.array_equal(np.asarray(read_image(path)), pixels[..., :3])
    assert capsys.readouterr().err == ""


def test_white_ink_on_a_white_background_is_noticed(tmp_path, capsys):
    ink = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    ink.putpixel((3, 3), (255, 255, 255, 255))
    path = saved(tmp_path / "ink.png", ink)
    read_image(path)
    first, second = capsys.readouterr().err.splitlines()
    assert "is put on white (INPUT.BACKGROUND)" in first and "is of one colour when put on white" in second
    assert read_image(path, background="black").getpixel((3, 3)) == (255, 255, 255)
    assert capsys.readouterr().err == ""  # each is said once


# ---- EXIF


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_the_exif_orientation_is_honoured_only_if_asked_for(tmp_path, capsys, orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "photo", Image.fromarray(NOISE[..., :3]), format, exif=exif)
    with Image.open(path) as image:
        stored, turned = np.asarray(image.convert("RGB")), np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(np.asarray(read_image(path, exif=True)), turned)
    assert capsys.readouterr().err == ""
    for _ in range(2):
        assert np.array_equal(np.asarray(read_image(path)), stored)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == (orientation > 1) and all("INPUT.EXIF True" in line for line in said)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about the metadata
@given(exif=st.binary(max_size=80))
@settings(max_examples=50, deadline=None)
def test_damaged_exif_never_costs_the_picture(tmp_path_factory, exif):
    path = saved(tmp_path_factory.getbasetemp() / "e.jpg", Image.fromarray(NOISE[..., :3]), "JPEG", exif=exif)
    assert min(read_image(path, exif=True).size) == 12


# ---- depth, colours and frames


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_are_scaled_and_it_is_said(tmp_path, capsys, name):
    values = np.array([[0, 255, 256, 300], [32768, 40000, 65279, 65535]], dtype=np.uint16)
    path = str(tmp_path / name)
    if name == "a.pgm":  # which older Pillows read and do not write
        (tmp_path / name).write_bytes(b"P5 4 2 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    assert np.array_equal(np.asarray(read_image(path))[..., 0], values // 256)
    assert capsys.readouterr().err == f"{path} has 16 bits per channel, of which the upper 8 are used\n"


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_other_colours_become_what_pillow_makes_of_them(mode):
    image = Image.fromarray(NOISE[..., :3]).convert(mode)
    assert np.array_equal(np.asarray(open_image(image)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_is_taken_and_it_is_said(tmp_path, capsys, format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    path = saved(tmp_path / "frames", frames[0], format, save_all=True, append_images=frames[1:], lossless=True)
    assert read_image(path).getpixel((0, 0)) == (255, 0, 0)
    assert "several frames or pages, of which the first is used" in capsys.readouterr().err


def test_what_was_read_before_is_read_as_before(tmp_path):
    """RGB, grey and palette images of the common formats, to the last bit."""
    for format in ("JPEG", "PNG", "BMP", "GIF", "WEBP"):
        for mode in ("RGB", "L", "P"):
            if (format, mode) != ("JPEG", "P"):
                path = saved(tmp_path / f"{mode}.{format}", Image.fromarray(NOISE[..., :3]).convert(mode), format)
                with Image.open(path) as image:
                    assert read_image(path).tobytes() == image.convert("RGB").tobytes()


# ---- what cannot be read


def test_neither_pipes_nor_devices_nor_folders_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("loop.png", tmp_path / "loop.png")
    for path in (tmp_path / "pipe.png", tmp_path / "loop.png", tmp_path, "/dev/zero", "/dev/null"):
        with pytest.raises(ImageError, match="cannot be read as an image.*not a regular file|symbolic links"):
            read_image(path)
    with pytest.raises(ImageError, match="cannot be read as an image.*No such file"):
        read_image(tmp_path / "missing.png")


def test_no_program_is_run(tmp_path, monkeypatch):
    """Pillow would hand PostScript to Ghostscript, whatever the file is called."""
    (tmp_path / "a.jpg").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    monkeypatch.setattr(subprocess, "check_call", lambda *_: pytest.fail("a program was run"))
    with pytest.raises(ImageError, match="a.jpg cannot be read as an image"):
        read_image(tmp_path / "a.jpg")
    assert ".eps" not in image_endings() and {".jpg", ".jfif", ".png", ".webp"} <= image_endings()
    assert (".avif" in image_endings()) == ("AVIF" in Image.OPEN)  # of Pillow 11.3


def test_images_that_would_fill_the_memory(tmp_path, monkeypatch):
    path = saved(tmp_path / "bomb.png", Image.new("1", (300, 300)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    with pytest.raises(ImageError, match="exceeds limit") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    for size in ((1, 1001), (1001, 1)):
        with pytest.raises(ImageError, match="cannot be resized"):
            read_image(saved(tmp_path / "narrow.png", Image.new("1", size)))


def test_depths_whose_range_is_unknown(tmp_path):
    for mode in ("I", "F"):
        with pytest.raises(ImageError, match="32 bits per channel is unknown: save it with 8 or 16"):
            read_image(saved(tmp_path / "deep.tif", Image.new(mode, (4, 4)), "TIFF"))
        with pytest.raises(UserError, match=f"an image of mode {mode} cannot be used"):
            open_image(Image.new(mode, (4, 4)))
    with pytest.raises(UserError, match="0 x 0 pixels"):
        open_image(Image.new("RGB", (0, 0)))


def whole_images():
    for format in FORMATS:
        for mode in ("RGB", "RGBA", "P", "L"):
            file = io.BytesIO()
            try:
                Image.fromarray(NOISE, "RGBA").convert(mode).save(file, format)
            except (OSError, KeyError, ValueError):  # this format has no such mode, or is not in this Pillow
                continue
            yield file.getvalue()


WHOLE = list(whole_images())


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about the metadata
@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_a_damaged_image_is_a_picture_or_one_sentence(tmp_path_factory, seed):
    rng, path = random.Random(seed), tmp_path_factory.getbasetemp() / "damaged"
    content = bytearray(rng.choice(WHOLE))
    for _ in range(rng.choice([1, 1, 2, 8])):
        where = rng.randrange(len(content)) if rng.random() < 0.5 else rng.randrange(min(60, len(content)))
        content[where] = rng.randrange(256)
    path.write_bytes(content[: rng.choice([len(content), rng.randrange(len(content))])])
    try:
        assert read_image(path, exif=True).mode == "RGB"
    except ImageError as error:
        assert str(error).startswith(f"{path} cannot be read as an image (") and "\n" not in str(error)


# ---- more of it


def test_heif_is_read_where_its_package_is_installed(monkeypatch):
    called = []
    package = types.SimpleNamespace(register_heif_opener=lambda: called.append(True))
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    assert "HEIF" not in read_formats() and called


def test_a_file_of_another_format_is_told_so(tmp_path):
    for name, hint in (("a.jpg", r"reads here\);"), ("a.HEIC", "reads here; `pip install pillow-heif` reads .heic")):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic")
        with pytest.raises(ImageError, match=f"{name} cannot be read as an image .it has no format that Pillow {hint}"):
            read_image(tmp_path / name)


def test_a_batch_is_read_as_it_is_told_to(tmp_path):
    path = saved(tmp_path / "clear.png", Image.new("RGBA", (8, 8), (0, 0, 0, 0)))
    preprocess = images.default_preprocess(4)
    white, black = (
        to_batch([path], preprocess, 4, lambda image, colour=colour: open_image(image, background=colour))
        for colour in ("white", "black")
    )
    assert white.shape == (1, 3, 4, 4) and white.min() > 0 > black.max()
