"""compat/dassl: datasets, few-shot draws, batches, samplers."""

import mmap
import os
import pickle
import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from animals import COUNTS, as_tensor, make_cfg, make_items
from dassl.config import get_cfg_default
from dassl.data import DataManager, DatasetWrapper, data_manager
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import DatasetBase, Datum, build_dataset
from dassl.data.samplers import build_sampler
from dassl.data.transforms import build_transform
from dassl.utils import ImageError, read_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import ToTensor

from promptbias.model import images


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    return make_items(tmp_path_factory.mktemp("images"))


@pytest.fixture
def cfg(items):
    return make_cfg(items)


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


def test_a_missing_image():
    with pytest.raises(FileNotFoundError, match="nowhere.jpg"):
        Datum("nowhere.jpg")


def test_few_shot_caches_pickle_datum_under_this_name(items):
    """CoOp pickles lists of Datum, so its module and attributes are part of a file format."""
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
    with pytest.raises(ValueError, match="no training images"):
        DatasetBase(train_x=[])
    with pytest.raises(ValueError, match="has no images"):
        build_data_loader(cfg, data_source=[])


def test_domains_are_checked():
    dataset = DatasetBase.__new__(DatasetBase)
    dataset.domains = ["photo", "sketch"]
    dataset.check_input_domains(["photo"], ["sketch"])
    with pytest.raises(ValueError, match="TARGET_DOMAINS is empty"):
        dataset.check_input_domains(["photo"], [])
    with pytest.raises(ValueError, match='"paint" is not a domain'):
        dataset.check_input_domains(["paint"], ["photo"])


# batches


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 10), size=st.integers(1, 12))
def test_an_incomplete_last_batch_is_dropped_only_if_there_is_a_full_one(items, count, size):
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


def test_no_more_images_are_kept_than_fit(cfg, items, monkeypatch):
    monkeypatch.setattr(data_manager, "KEPT_BYTES", 2 * 4 * 40 * 28 + 100)
    loader = build_data_loader(cfg, "SequentialSampler", items, 4, tfm=build_transform(cfg, is_train=False))
    labels = torch.cat([batch["label"] for batch in loader])
    assert labels.tolist() == [item.label for item in items[:8]]
    assert list(loader.dataset.kept) == paths(items[:2])


def test_the_contents_of_a_batch(cfg, items):
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
    path.write_bytes(Path(items[0].impath).read_bytes()[:500])
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_data_loader(cfg, data_source=[Datum(str(path))], tfm=build_transform(cfg))
    with pytest.raises(ImageError) as caught:
        next(iter(loader))
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_other_bad_images(tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    Image.new("F", (4, 4)).save(tmp_path / "deep.tif")
    for name in ("text.jpg", "missing.jpg", "deep.tif"):
        with pytest.raises(ImageError, match=name):
            read_image(str(tmp_path / name))


@pytest.mark.parametrize("workers", [0, 2])
def test_exif_and_background_are_those_of_the_config_and_said_once(cfg, tmp_path, workers, capfd, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    data = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        Image.new("RGBA", (4, 2), (0, 0, 0, 0)).save(path, exif=exif)
        data.append(Datum(str(path), 0, classname="glass"))
    cfg.DATALOADER.NUM_WORKERS = workers
    for turned, background, level in ((False, "white", 1), (True, "black", 0)):
        monkeypatch.setattr(images, "_said", mmap.mmap(-1, mmap.PAGESIZE))
        cfg.INPUT.EXIF, cfg.INPUT.BACKGROUND = turned, background
        seen = [batch["img"] for batch in build_data_loader(cfg, data_source=data, tfm=ToTensor(), batch_size=1)]
        assert all(torch.equal(image, torch.full_like(image, level)) for image in seen)
        assert {tuple(image.shape[2:]) for image in seen} == {(4, 2) if turned else (2, 4)}
        said = capfd.readouterr().err
        assert said.count("INPUT.EXIF True turns them") == (not turned)
        assert said.count(f"is put on {background} (INPUT.BACKGROUND)") == 1


def test_a_pipe_in_place_of_an_image_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(FileNotFoundError, match="is not a regular file"):
        Datum(str(tmp_path / "pipe.png"))


# samplers


def test_class_batches(items):
    drawn = list(build_sampler("RandomClassSampler", data_source=items, batch_size=6, n_ins=3))
    for start in range(0, len(drawn), 6):
        labels = [items[i].label for i in drawn[start : start + 6]]
        assert sorted(Counter(labels).values()) == [3, 3]
    with pytest.raises(ValueError, match="per class"):
        build_sampler("RandomClassSampler", data_source=items, batch_size=40, n_ins=1)


def test_more_domains_than_there_are(items):
    with pytest.raises(ValueError, match="batches of 3 domains cannot be drawn from 2"):
        build_sampler("RandomDomainSampler", data_source=items, batch_size=6, n_domain=3)


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
