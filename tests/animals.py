"""A miniature dataset of noise images, registered as "Animals"."""

import numpy as np
import torch
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from PIL import Image

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
COUNTS = {"cat": 5, "dog": 3, "owl": 2}


def make_items(folder):
    """Ten images of 40x28 pixels in three classes and two domains."""
    noise, items = np.random.RandomState(0), []
    for label, (name, count) in enumerate(COUNTS.items()):
        for i in range(count):
            path = str(folder / f"{name}{i}.png")
            Image.fromarray(noise.randint(0, 256, (28, 40, 3), dtype=np.uint8)).save(path)
            items.append(Datum(path, label, domain=i % 2, classname=name))
    return items


def make_cfg(items):
    """A configuration of the dataset with these images; registers it."""

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


def as_tensor(image):
    """(3, H, W), normalised independently."""
    pixels = np.asarray(image, dtype=np.float64) / 255
    return torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1)
