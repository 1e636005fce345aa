"""Loaders for training, validation and testing."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate, takewhile
from typing import Any

import torch
from dassl.utils import ConfigError, read_image
from dassl.utils.tools import image_bytes
from tabulate import tabulate
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms as T
from tqdm import tqdm
from yacs.config import CfgNode

from .datasets import build_dataset
from .datasets.base_dataset import Datum
from .samplers import build_sampler
from .transforms import INTERPOLATION_MODES, build_transform

__all__ = ["DataManager", "DatasetWrapper", "build_data_loader"]

KEPT_BYTES = 2 * 2**30  # of memory for decoded training images


class DatasetWrapper(TorchDataset):
    """Reads and transforms the images of a list of `Datum`.

    An item is a dictionary with "img" (a tensor (3, H, W), or a PIL image if `transform` is None), "label", "domain",
    "impath" and "index". Several transforms give "img", "img2", ...; in training, `DATALOADER.K_TRANSFORMS` > 1 turns
    each into a list of that many images; `DATALOADER.RETURN_IMG0` adds "img0", resized without augmentation.

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
        self.read_image = partial(read_image, exif=cfg.INPUT.EXIF, background=cfg.INPUT.BACKGROUND)
        if self.k_tfm > 1 and transform is None:
            raise ConfigError(
                f"DATALOADER.K_TRANSFORMS is {self.k_tfm}, but there is no transform to repeat; set it to 1"
            )

        plain = [T.Resize(cfg.INPUT.SIZE, INTERPOLATION_MODES[cfg.INPUT.INTERPOLATION]), T.ToTensor()]
        if "normalize" in cfg.INPUT.TRANSFORMS:
            plain.append(T.Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD))
        self.to_tensor = T.Compose(plain)

    def __len__(self) -> int:
        return len(self.data_source)

    def __getitem__(self, idx: int) -> dict[str, Any]:
        item = self.data_source[idx]
        output = {"label": item.label, "domain": item.domain, "impath": item.impath, "index": idx}
        img0 = self.kept.get(item.impath) or self.read_image(item.impath)
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
        """Decode images in the order of `data_source`, and keep as many as fit into KEPT_BYTES."""
        paths = [item.impath for item in self.data_source]
        room = sum(1 for _ in takewhile(lambda total: total <= KEPT_BYTES, accumulate(map(image_bytes, paths))))
        with ThreadPoolExecutor() as pool:
            images = pool.map(self.read_image, paths[:room])
            self.kept = dict(
                zip(paths, tqdm(images, "decoding", room, unit="image", delay=2, leave=False, disable=None))
            )

    def _transform_image(self, tfm: Callable, img0: Any) -> Any:
        images = [tfm(img0) for _ in range(self.k_tfm)]
        return images[0] if self.k_tfm == 1 else images


class TrainLoader(DataLoader):
    """Decodes what fits into memory before the first epoch; later epochs and worker processes reuse it."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # Forked workers share the decoded images; spawned ones would be sent a copy in every epoch.
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

    In training, an incomplete last batch is dropped unless it is the only one.

    Raises:
        ConfigError: there are no images.
    """
    if not data_source:
        kind = "training" if is_train else "test"
        raise ConfigError(f"the {kind} set of {cfg.DATASET.NAME} has no images; check DATASET.ROOT")
    return (TrainLoader if is_train else DataLoader)(
        (dataset_wrapper or DatasetWrapper)(cfg, data_source, transform=tfm, is_train=is_train),
        batch_size=batch_size,
        sampler=build_sampler(sampler_type, cfg, data_source, batch_size, n_domain, n_ins),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        drop_last=is_train and len(data_source) >= batch_size,
        pin_memory=torch.cuda.is_available() and cfg.USE_CUDA,
    )


class DataManager:
    """The dataset of a configuration with its loaders.

    These are `train_loader_x` and `test_loader`, and `train_loader_u` (unlabelled) and `val_loader`, which are None if
    the dataset has no such images.

    Args:
        custom_tfm_train, custom_tfm_test: replace the transforms of the configuration.
        dataset_wrapper: replaces `DatasetWrapper`.
    """

    def __init__(
        self,
        cfg: CfgNode,
        custom_tfm_train: Any = None,
        custom_tfm_test: Any = None,
        dataset_wrapper: Callable | None = None,
    ):
        dataset = build_dataset(cfg)
        train = {"tfm": _transform(cfg, custom_tfm_train, is_train=True), "is_train": True}
        test = {"tfm": _transform(cfg, custom_tfm_test, is_train=False), "is_train": False}

        def loader(images: Sequence[Datum] | None, settings: CfgNode, options: dict[str, Any]) -> DataLoader:
            return build_data_loader(
                cfg,
                settings.SAMPLER,
                images,
                settings.BATCH_SIZE,
                settings.get("N_DOMAIN", 0),
                settings.get("N_INS", 2),
                dataset_wrapper=dataset_wrapper,
                **options,
            )

        settings = cfg.DATALOADER
        settings_u = settings.TRAIN_X if settings.TRAIN_U.SAME_AS_X else settings.TRAIN_U
        self.train_loader_x = loader(dataset.train_x, settings.TRAIN_X, train)
        self.train_loader_u = loader(dataset.train_u, settings_u, train) if dataset.train_u else None
        self.val_loader = loader(dataset.val, settings.TEST, test) if dataset.val else None
        self.test_loader = loader(dataset.test, settings.TEST, test)

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


def _transform(cfg: CfgNode, custom: Any, is_train: bool) -> Any:
    """The given transform or, if it is None, that of the configuration."""
    if custom is None:
        return build_transform(cfg, is_train=is_train)
    print(f"* Using custom transform for {'training' if is_train else 'testing'}")
    return custom
