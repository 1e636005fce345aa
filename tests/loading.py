"""Datasets as a run builds them, by name."""

import os

from dassl.config import get_cfg_default
from dassl.data.datasets import build_dataset
from PIL import Image

from promptbias import datasets

datasets.register_all()


def config(root, name, shots=-1, seed=1, **more):
    cfg = get_cfg_default()
    cfg.DATASET.ROOT, cfg.DATASET.NAME, cfg.DATASET.NUM_SHOTS, cfg.SEED = str(root), name, shots, seed
    for key, value in more.items():
        cfg.DATASET[key] = value
    cfg.VERBOSE = False
    return cfg


def load(root, name, *args, **more):
    return build_dataset(config(root, name, *args, **more))


def plain(data):
    return [(item.impath, int(item.label), str(item.classname)) for item in data or []]


def images(folder, count, suffix=".jpg"):
    """`count` small images in a folder, in an order that is not that of their names."""
    os.makedirs(folder, exist_ok=True)
    for number in reversed(range(count)):
        path = os.path.join(folder, f"{os.path.basename(folder)}_{number}{suffix}")
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
