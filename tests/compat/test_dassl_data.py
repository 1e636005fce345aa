"""compat/dassl: datasets, few-shot draws, transforms, batches."""

import pickle
import random
from collections import Counter

import numpy as np
import pytest
import torch
from dassl.config import get_cfg_default
from dassl.data import DataManager, DatasetWrapper, data_manager
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum, build_dataset
from dassl.data.samplers import build_sampler
from dassl.data.transforms import build_transform
from dassl.utils import ImageError, read_image, set_random_seed
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
COUNTS = {"cat": 5, "dog": 3, "owl": 2}


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Ten noise images of 40x28 pixels in three classes and two domains."""
    folder, noise = tmp_path_factory.mktemp("images"), np.random.RandomState(0)
    out = []
    for label, (name, count) in enumerate(COUNTS.items()):
        for i in range(count):
            path = str(folder / f"{name}{i}.png")
            Image.fromarray(noise.randint(0, 256, (28, 40, 3), dtype=np.uint8)).save(path)
            out.append(Datum(path, label, domain=i % 2, classname=name))
    return out


@pytest.fixture
def cfg(items):
    class Animals(DatasetBase):
        def __init__(self, cfg):
            train = self.generate_fewshot_dataset(items, num_shots=cfg.DATASET.NUM_SHOTS)
            super().__init__(train_x=train, val=items[:4], test=items)

    DATASET_REGISTRY.register(Animals, force=True)
    cfg = get_cfg_default()
    cfg.DATASET.NAME = "Animals"
    cfg.INPUT.SIZE, cfg.INPUT.INTERPOLATION = (16, 16), "bicubic"
    cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD = MEAN, STD
    cfg.INPUT.TRANSFORMS = ["random_resized_crop", "random_flip", "normalize"]
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = cfg.DATALOADER.TEST.BATCH_SIZE = 4
    return cfg


def paths(data):
    return [item.impath for item in data]


# few-shot draws


@pytest.mark.parametrize("shots", [1, 2, 4])
def test_a_seed_draws_as_random_sample_does(cfg, items, shots):
    cfg.DATASET.NUM_SHOTS = shots
    random.seed(7)
    drawn = build_dataset(cfg).train_x
    random.seed(7)
    expected = []
    for label, count in enumerate(COUNTS.values()):
        of_class = [item for item in items if item.label == label]
        expected += random.sample(of_class, shots) if count >= shots else of_class
    assert paths(drawn) == paths(expected)


def test_several_sources_and_repeats(cfg, items):
    dataset = build_dataset(cfg)
    first, second = dataset.generate_fewshot_dataset(items, items[:5], num_shots=4, repeat=True)
    assert Counter(item.label for item in first) == {0: 4, 1: 4, 2: 4}
    assert Counter(item.label for item in second) == {0: 4}
    assert dataset.generate_fewshot_dataset(items, num_shots=0) is items
    assert dataset.generate_fewshot_dataset(items, items, num_shots=-1) == (items, items)


def test_classes_come_from_the_training_images(cfg):
    dataset = build_dataset(cfg)
    assert dataset.num_classes == 3 and dataset.classnames == list(COUNTS)
    assert dataset.lab2cname == {0: "cat", 1: "dog", 2: "owl"}


def test_an_image_that_does_not_exist():
    with pytest.raises(FileNotFoundError, match="nowhere.jpg"):
        Datum("nowhere.jpg")


def test_few_shot_caches_know_datum_by_this_name(items):
    """CoOp pickles lists of them, so module and attributes are part of a file format."""
    text = pickle.dumps(items[0], protocol=0)
    assert b"dassl.data.datasets.base_dataset" in text and set(vars(items[0])) == {
        "_impath",
        "_label",
        "_domain",
        "_classname",
    }
    assert pickle.loads(text).classname == "cat"


def test_an_unknown_dataset_and_an_empty_one(cfg):
    cfg.DATASET.NAME = "animal"
    with pytest.raises(ValueError, match='did you mean "Animals"'):
        build_dataset(cfg)
    with pytest.raises(ValueError, match="no training image"):
        DatasetBase(train_x=[])
    with pytest.raises(ValueError, match="has no image"):
        build_data_loader(cfg, data_source=[])


def test_domains_are_checked():
    dataset = DatasetBase.__new__(DatasetBase)
    dataset.domains = ["photo", "sketch"]
    dataset.check_input_domains(["photo"], ["sketch"])
    with pytest.raises(ValueError, match="TARGET_DOMAINS is empty"):
        dataset.check_input_domains(["photo"], [])
    with pytest.raises(ValueError, match='"paint" is no domain'):
        dataset.check_input_domains(["paint"], ["photo"])


# transforms


def as_tensor(image):
    """(3, H, W), normalised by hand."""
    pixels = np.asarray(image, dtype=np.float64) / 255
    return torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1)


@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
@pytest.mark.parametrize(
    "name, mode", [("bicubic", Image.BICUBIC), ("bilinear", Image.BILINEAR), ("nearest", Image.NEAREST)]
)
def test_testing_resizes_the_shorter_side_and_cuts_the_centre(cfg, items, size, name, mode):
    cfg.INPUT.SIZE, cfg.INPUT.INTERPOLATION = size, name
    image = read_image(items[0].impath)
    side = max(size)
    resized = image.resize((int(side * 40 / 28), side), mode)
    top, left = round((side - size[0]) / 2), round((resized.width - size[1]) / 2)
    expected = as_tensor(resized.crop((left, top, left + size[1], top + size[0])))
    assert torch.allclose(build_transform(cfg, is_train=False)(image).double(), expected, atol=1e-5)


def test_training_crops_and_flips(cfg, items):
    """With the crop fixed to the whole image only the flip is left to chance."""
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


def test_the_log_says_what_is_done(cfg, capsys):
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


# batches


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 10), size=st.integers(1, 12))
def test_a_last_short_batch_is_left_out_only_if_there_is_a_full_one(items, count, size):
    cfg = get_cfg_default()
    cfg.DATALOADER.NUM_WORKERS = 0
    train = build_data_loader(cfg, "RandomSampler", items[:count], size, is_train=True)
    assert len(train) == (count // size if count >= size else 1)
    test = build_data_loader(cfg, "SequentialSampler", items[:count], size, is_train=False)
    assert len(test) == -(-count // size)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_images_are_decoded_once(cfg, items, tmp_path, workers):
    data = []
    for i in range(3):
        path = tmp_path / f"{i}.png"
        Image.open(items[i].impath).save(path)
        data.append(Datum(str(path), i))
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_data_loader(cfg, "SequentialSampler", data, 3, tfm=build_transform(cfg, is_train=False))
    first = next(iter(loader))["img"]
    for path in tmp_path.iterdir():
        path.unlink()
    assert torch.equal(next(iter(loader))["img"], first)


def test_no_more_is_kept_than_there_is_room_for(cfg, items, monkeypatch):
    monkeypatch.setattr(data_manager, "KEPT_BYTES", 2 * 4 * 40 * 28 + 100)
    loader = build_data_loader(cfg, "SequentialSampler", items, 4, tfm=build_transform(cfg, is_train=False))
    labels = torch.cat([batch["label"] for batch in loader])
    assert labels.tolist() == [item.label for item in items[:8]]
    assert list(loader.dataset.kept) == paths(items[:2])


def test_what_a_batch_holds(cfg, items):
    manager = DataManager(cfg)
    batch = next(iter(manager.test_loader))
    assert set(batch) == {"img", "label", "domain", "impath", "index"}
    assert batch["img"].shape == (4, 3, 16, 16) and batch["img"].dtype == torch.float32
    assert batch["label"].tolist() == [0] * 4 and batch["index"].tolist() == [0, 1, 2, 3]
    assert batch["domain"].tolist() == [0, 1, 0, 1] and batch["impath"] == paths(items[:4])
    assert len(manager.val_loader) == 1 and manager.train_loader_u is None
    assert (manager.num_classes, manager.num_source_domains, manager.lab2cname[2]) == (3, 0, "owl")


def test_the_table_of_counts(cfg, capsys):
    DataManager(cfg)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    for row in (
        ["Dataset", "Animals"],
        ["#", "classes", "3"],
        ["#", "train_x", "10"],
        ["#", "val", "4"],
        ["#", "test", "10"],
    ):
        assert row in rows


def test_copies_and_the_plain_image(cfg, items):
    cfg.DATALOADER.K_TRANSFORMS, cfg.DATALOADER.RETURN_IMG0 = 3, True
    item = DatasetWrapper(cfg, items, build_transform(cfg), is_train=True)[0]
    assert len(item["img"]) == 3 and not torch.equal(item["img"][0], item["img"][1])
    expected = as_tensor(read_image(items[0].impath).resize((16, 16), Image.BICUBIC)).float()
    assert torch.allclose(item["img0"], expected, atol=1e-5)
    testing = DatasetWrapper(cfg, items, build_transform(cfg, is_train=False))[0]
    assert testing["img"].shape == (3, 16, 16)
    with pytest.raises(ValueError, match="K_TRANSFORMS"):
        DatasetWrapper(cfg, items, None, is_train=True)


def test_several_transforms_and_none(cfg, items):
    pair = [build_transform(cfg, is_train=False), build_transform(cfg)]
    assert {"img", "img2"} <= set(DatasetWrapper(cfg, items, pair)[0])
    cfg.INPUT.NO_TRANSFORM = True
    assert DatasetWrapper(cfg, items, build_transform(cfg))[0]["img"].size == (40, 28)


def test_workers_read_the_same_images(cfg):
    labels = []
    for workers in (0, 2):
        cfg.DATALOADER.NUM_WORKERS = workers
        labels.append([batch["img"].sum().item() for batch in DataManager(cfg).test_loader])
    assert labels[0] == labels[1]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(cfg, items, tmp_path, workers):
    path = tmp_path / "broken.png"
    path.write_bytes(open(items[0].impath, "rb").read()[:500])
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_data_loader(cfg, data_source=[Datum(str(path))], tfm=build_transform(cfg))
    with pytest.raises(ImageError) as caught:
        next(iter(loader))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_other_bad_images(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    Image.fromarray(np.full((4, 4), 300, dtype=np.uint16)).save(tmp_path / "deep.png")  # Pillow would make it all white
    for name in ("text.jpg", "missing.jpg", "deep.png"):
        with pytest.raises(ImageError, match=name):
            read_image(str(tmp_path / name))


# samplers


def test_class_batches(items):
    drawn = list(build_sampler("RandomClassSampler", data_source=items, batch_size=6, n_ins=3))
    for start in range(0, len(drawn), 6):
        labels = [items[i].label for i in drawn[start : start + 6]]
        assert sorted(Counter(labels).values()) == [3, 3]
    with pytest.raises(ValueError, match="per class"):
        build_sampler("RandomClassSampler", data_source=items, batch_size=40, n_ins=1)


@pytest.mark.parametrize("name", ["RandomDomainSampler", "SeqDomainSampler"])
def test_domain_batches(items, name):
    sampler = build_sampler(name, data_source=items, batch_size=4)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == len(set(drawn)) == 8  # 6 and 4 images in the two domains
    for start in range(0, 8, 4):
        domains = [items[i].domain for i in drawn[start : start + 4]]
        assert Counter(domains) == {0: 2, 1: 2}
        assert name == "RandomDomainSampler" or domains == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="domains"):
        build_sampler(name, data_source=items, batch_size=3)


def test_an_unknown_sampler(items):
    with pytest.raises(ValueError, match="Shuffled"):
        build_sampler("Shuffled", data_source=items)
