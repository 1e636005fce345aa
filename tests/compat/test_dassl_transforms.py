"""compat/dassl: image transforms."""

from collections import Counter

import pytest
import torch
from animals import MEAN, STD, as_tensor, make_cfg, make_items
from dassl.data.transforms import build_transform
from dassl.utils import read_image, set_random_seed
from PIL import Image


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return make_items(tmp_path_factory.mktemp("images"))


@pytest.fixture
def cfg(items):
    return make_cfg(items)


@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
@pytest.mark.parametrize(
    "name, mode", [("bicubic", Image.BICUBIC), ("bilinear", Image.BILINEAR), ("nearest", Image.NEAREST)]
)
def test_evaluation_resizes_the_shorter_side_and_crops_the_centre(cfg, items, size, name, mode):
    cfg.INPUT.SIZE, cfg.INPUT.INTERPOLATION = size, name
    image = read_image(items[0].impath)
    side = max(size)
    resized = image.resize((int(side * 40 / 28), side), mode)
    top, left = round((side - size[0]) / 2), round((resized.width - size[1]) / 2)
    expected = as_tensor(resized.crop((left, top, left + size[1], top + size[0])))
    assert torch.allclose(build_transform(cfg, is_train=False)(image).double(), expected, atol=1e-5)


def test_training_crops_and_flips(cfg, items):
    """With the crop fixed to the whole image, only the flip is random."""
    cfg.INPUT.RRCROP_SCALE = (1.0, 1.0)
    image = read_image(items[0].impath).crop((0, 0, 28, 28))
    plain = as_tensor(image.resize((16, 16), Image.BICUBIC)).float()
    transform = build_transform(cfg)
    torch.manual_seed(0)
    seen = Counter()
    for _ in range(40):
        got = transform(image)
        seen["plain"] += torch.allclose(got, plain, atol=1e-5)
        seen["flipped"] += torch.allclose(got, plain.flip(2), atol=1e-5)
    assert seen["plain"] + seen["flipped"] >= 38 and min(seen["plain"], seen["flipped"]) > 10


def test_the_log_lists_the_steps(cfg, capsys):
    build_transform(cfg)
    build_transform(cfg, is_train=False)
    assert capsys.readouterr().out.splitlines() == [
        "Building transform_train",
        "+ random resized crop (size=(16, 16), scale=(0.08, 1.0))",
        "+ random flip",
        "+ to torch tensor of range [0, 1]",
        f"+ normalization (mean={MEAN}, std={STD})",
        "Building transform_test",
        "+ resize the smaller edge to 16",
        "+ 16x16 center crop",
        "+ to torch tensor of range [0, 1]",
        f"+ normalization (mean={MEAN}, std={STD})",
    ]


@pytest.mark.parametrize(
    "name",
    [
        "random_flip",
        "random_resized_crop",
        "normalize",
        "instance_norm",
        "random_crop",
        "random_translation",
        "center_crop",
        "cutout",
        "gaussian_noise",
        "colorjitter",
        "randomgrayscale",
        "gaussian_blur",
    ],
)
def test_every_transform_gives_the_size_and_follows_the_seed(cfg, items, name):
    image, transform = read_image(items[0].impath), build_transform(cfg, choices=[name])
    pair = []
    for _ in range(2):
        set_random_seed(3)
        pair.append(transform(image))
    assert pair[0].shape == (3, 16, 16) and torch.equal(*pair)


def test_instance_normalisation_and_cutout(cfg, items):
    image = read_image(items[0].impath)
    normal = build_transform(cfg, choices=["instance_norm"])(image).flatten(1)
    assert torch.allclose(normal.mean(1), torch.zeros(3), atol=1e-5)
    assert torch.allclose(normal.std(1), torch.ones(3), atol=1e-5)
    cfg.INPUT.CUTOUT_LEN = 4
    holes = (build_transform(cfg, choices=["cutout"])(Image.new("RGB", (16, 16), "white")) == 0).all(0)
    rows, columns = holes.any(1).nonzero().flatten(), holes.any(0).nonzero().flatten()
    assert holes.sum() == len(rows) * len(columns) and 2 <= len(rows) <= 4 and 2 <= len(columns) <= 4


def test_unknown_transforms(cfg):
    with pytest.raises(ValueError, match="random_flop"):
        build_transform(cfg, choices=["random_flop"])
    cfg.INPUT.INTERPOLATION = "cubic"
    with pytest.raises(ValueError, match="cubic"):
        build_transform(cfg)
