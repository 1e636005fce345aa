"""Loaders for training, validation and testing."""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, takewhile
from typing import Any
from collections.abc import Callable, Iterator, Sequence

import torch
from tabulate import tabulate
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms as T
from tqdm import tqdm
from yacs.config import CfgNode

from dassl.utils import ConfigError, read_image
from dassl.utils.tools import image_bytes

from .datasets import build_dataset
from .datasets.base_dataset import Datum
from .samplers import build_sampler
from .transforms import INTERPOLATION_MODES, build_transform

__all__ = ["DataManager", "DatasetWrapper", "build_data_loader"]

KEPT_BYTES = 2 * 2**30  # of decoded training images


class DatasetWrapper(TorchDataset):
    """Reads and transforms the images of a list of `Datum`.

    An item is a dictionary with "img" (a tensor (3, H, W); a PIL image where `transform` is None), "label", "domain",
    "impath" and "index". Several transforms give "img", "img2", ...; `DATALOADER.K_TRANSFORMS` > 1 gives a list of so
    many images under each in training; `DATALOADER.RETURN_IMG0` adds "img0", resized without augmentation.

    Args:
        transform: a transform, or a list of them, or None.
        is_train: whether `DATALOADER.K_TRANSFORMS` applies.
    """

    def __init__(self, cfg: CfgNode, data_source: Sequence[Datum], transform: Any = None, is_train: bool = False):
        self.cfg = cfg
        self.data_source = data_source
        self.transform = transform
        self.is_train = is_train
        self.kept: dict[str, Any] = {}
        self.k_tfm = cfg.DATALOADER.K_TRANSFORMS if is_train else 1
        self.return_img0 = cfg.DATALOADER.RETURN_IMG0
        if self.k_tfm > 1 and transform is None:
            raise ConfigError(f"DATALOADER.K_TRANSFORMS is {self.k_tfm}, but there is no transform to repeat")

        plain = [T.Resize(cfg.INPUT.SIZE, INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]), T.ToTensor()]
        if "normalize" in cfg.INPUT.TRANSFORMS:
            plain.append(T.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD))
        self.to_tensor = T.Compose(plain)

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        item = self.data_source[idx]
        output = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": idx}
        img0 = self.kept.get(item.impath) or read_image(item.impath)
        if self.transform is None:
            output["img"] = img0
        else:
            transforms = self.transform if isinstance(self.transform, (list, tuple)) else [self.transform]
            for i, transform in enumerate(transforms, start=1):
                output["img" if i == 1 else f"img{i}"] = self._transform_image(transform, img0)
        if self.return_img0:
            output["img0"] = self.to_tensor(img0)
        return output

    def keep_decoded(self) -> None:
        """Decode images, in the order of `data_source` and as many as KEPT_BYTES have room for, and keep them."""
        paths = [item.impath for item in self.data_source]
        room = sum(1 for _ in takewhile(lambda total: total <= KEPT_BYTES, accumulate(map(image_bytes, paths))))
        with ThreadPoolExecutor() as pool:
            images = pool.map(read_image, paths[:room])
            self.kept = dict(
                zip(paths, tqdm(images, "decoding", room, unit="image", delay=2, leave=False, disable=None))
            )

    def _transform_image(self, tfm: Callable, img0: Any) -> Any:
        images = [tfm(img0) for _ in range(self.k_tfm)]
        return images[0] if self.k_tfm == 1 else images


class TrainLoader(DataLoader):
    """Decodes what fits into memory before the first epoch, so that later ones, and worker processes, find it decoded."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # A worker that is forked shares what is there already; one that is not would be sent a copy in every epoch.
        shared = not self.num_workers or multiprocessing.get_start_method() == "fork"
        if shared and not getattr(self.dataset, "kept", True):
            self.dataset.keep_decoded()
        return super().__iter__()


def build_data_loader(
    cfg: CfgNode,
    sampler_type: str = "SequentialSampler",
    data_source: Sequence[Datum] = (),
    batch_size: int = 64,
    n_domain: int = 0,
    n_ins: int = 2,
    tfm: Any = None,
    is_train: bool = True,
    dataset_wrapper: Callable | None = None,
) -> DataLoader:
    """A loader of `data_source` in the order of a sampler.

    In training a last batch that is not full is left out, unless there are too few images for even one.

    Raises:
        ConfigError: there is not one image.
    """
    if not data_source:
        raise ConfigError(f"the {'training' if is_train else 'test'} set of {cfg.DATASET.NAME} has no image")
    return (TrainLoader if is_train else DataLoader)(
        (dataset_wrapper or DatasetWrapper)(cfg, data_source, transform=tfm, is_train=is_train),
        batch_size=batch_size,
        sampler=build_sampler(sampler_type, cfg, data_source, batch_size, n_domain, n_ins),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        drop_last=is_train and len(data_source) >= batch_size,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
    )


class DataManager:
    """The dataset of a configuration with its loaders: `train_loader_x` and `test_loader`, and where the dataset has
    such images `train_loader_u` (unlabelled) and `val_loader`, else None.

    Args:
        custom_tfm_train, custom_tfm_test: used instead of the transforms that the configuration names.
        dataset_wrapper: used instead of `DatasetWrapper`.
    """

    def __init__(
        self,
        cfg: CfgNode,
        custom_tfm_train: Any = None,
        custom_tfm_test: Any = None,
        dataset_wrapper: Callable | None = None,
    ):
        dataset = build_dataset(cfg)

        if custom_tfm_train is None:
            tfm_train = build_transform(cfg, is_train=True)
        else:
            print("* Using custom transform for training")
            tfm_train = custom_tfm_train
        if custom_tfm_test is None:
            tfm_test = build_transform(cfg, is_train=False)
        else:
            print("* Using custom transform for testing")
            tfm_test = custom_tfm_test

        def train_loader(images: Sequence[Datum], settings: CfgNode) -> DataLoader:
            return build_data_loader(
                cfg,
                settings.SAMPLER,
                images,
                settings.BATCH_SIZE,
                settings.N_DOMAIN,
                settings.N_INS,
                tfm=tfm_train,
                is_train=True,
                dataset_wrapper=dataset_wrapper,
            )

        def test_loader(images: Sequence[Datum]) -> DataLoader:
            settings = cfg.DATALOADER.TEST
            return build_data_loader(
                cfg,
                settings.SAMPLER,
                images,
                settings.BATCH_SIZE,
                tfm=tfm_test,
                is_train=False,
                dataset_wrapper=dataset_wrapper,
            )

        loaders = cfg.DATALOADER
        settings_u = loaders.TRAIN_X if loaders.TRAIN_U.SAME_AS_X else loaders.TRAIN_U
        self.train_loader_x = train_loader(dataset.train_x, loaders.TRAIN_X)
        self.train_loader_u = train_loader(dataset.train_u, settings_u) if dataset.train_u else None
        self.val_loader = test_loader(dataset.val) if dataset.val else None
        self.test_loader = test_loader(dataset.test)

        self.dataset = dataset
        self.num_classes = dataset.num_classes
        self.num_source_domains = len(cfg.DATASET.SOURCE_DOMAINS)
        self.lab2cname = dataset.lab2cname
        if cfg.VERBOSE:
            self.show_dataset_summary(cfg)

    def show_dataset_summary(self, cfg: CfgNode) -> None:
        """Print names and counts as a table."""
        dataset = self.dataset
        counts = {"train_x": dataset.train_x, "train_u": dataset.train_u, "val": dataset.val, "test": dataset.test}
        table = {
            "Dataset": cfg.DATASET.NAME,
            "Source": cfg.DATASET.SOURCE_DOMAINS,
            "Target": cfg.DATASET.TARGET_DOMAINS,
            "# classes": f"{self.num_classes:,}",
            **{f"# {name}": f"{len(images):,}" for name, images in counts.items() if images},
        }
        print(tabulate([[name, value] for name, value in table.items() if value]))
