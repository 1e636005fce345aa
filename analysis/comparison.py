"""The models that an analysis compares: finished runs, loaded from their folders in float32, and plain CLIP."""

import copy
import os
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from promptbias.datasets.masks import mask_reader
from promptbias.engine.data import eval_batches, one_image
from promptbias.engine.load import load_trainer
from promptbias.engine.run_folder import read_results
from promptbias.experiments.results import seeds_in, short_names
from promptbias.model.templates import GENERIC, dataset_template, validate_template
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.trainers.zeroshot import ZeroshotConfig
from promptbias.utils.errors import UserError

if TYPE_CHECKING:
    from dassl.engine import TrainerX

ZERO_SHOT = "zero-shot CLIP"


class Comparison:
    """A tuned run, the plain CLIP that it started from, runs to compare it with, and the images they are tested on.

    Args:
        model_dir: folder of a finished run; its `config.yaml` says the rest.
        compare: folders of further runs on the same dataset and backbone.
        template: of plain CLIP, with one {} for the class name; "dataset" is the dataset's own.
        samples: number of evenly spaced test images to use (None: all).
        batch_size: images per batch (does not affect results).
        root: folder of the datasets, if it is not the one in `config.yaml`.

    Attributes:
        cfg: config of the tuned run.
        model_dir: its folder.
        tuned, plain: the two models of every figure; float32, eval mode, no parameter requires a gradient.
        models: label -> model; first `plain`, then `tuned`, then those of `compare`.
        classnames: K names.
        device: of the models.
        indices: of the images in the test set.
        few_shot: indices of the images among those that the tuned run was trained on.
        tested_only: whether it only tested what another run had trained, on images of its own.
        shared: what figures have computed for each other (see `shared`); one for all choices of images.

    Raises:
        UserError: there is no finished run, it is named twice or of another dataset or backbone, there are fewer images
            than asked for, or the template has no {}.
    """

    def __init__(
        self,
        model_dir: str,
        compare: Sequence[str] = (),
        template: str = GENERIC,
        samples: int | None = None,
        batch_size: int = 32,
        root: str = "",
    ) -> None:
        if batch_size < 1:
            raise UserError(f"--batch-size is {batch_size}, but must be at least 1")
        if template != "dataset":
            validate_template(template, "--template")
        self.batch_size = batch_size
        self.shared: dict[Any, Any] = {}
        trainer = load_trainer(model_dir, root)
        self.model_dir = model_dir
        self.cfg, self.tuned, self._data = trainer.cfg, trainer.model, trainer.dm.dataset
        self._transform = trainer.test_loader.dataset.transform
        self.device = trainer.device
        self.classnames: list[str] = self._data.classnames
        self.plain = self.plain_clip(template)
        self.indices = evenly_spaced(range(len(self._data.test)), samples)
        self.few_shot = list(range(len(self._data.train_x)))
        self.tested_only = bool(read_results(model_dir).get("evaluated"))
        tuned = {os.path.abspath(model_dir): self.tuned}
        for folder in compare:
            if os.path.abspath(folder) in tuned:
                raise UserError(f"{folder} is named twice; name each run once")
            other = load_trainer(folder, root)
            difference = self.difference(other)
            if difference:
                raise UserError(f"{folder} cannot be compared with {model_dir}: {difference}")
            tuned[os.path.abspath(folder)] = other.model
        self.models: dict[str, TunedCLIP] = {ZERO_SHOT: self.plain, **labelled(tuned)}

    def each_seed(self) -> Iterator["Comparison"]:
        """The comparisons that are averaged: this one alone."""
        yield self

    def difference(self, other: "TrainerX") -> str:
        """Why another run cannot be compared with this one, or ""."""
        for what, ours, theirs in (
            ("dataset", self.cfg.DATASET.NAME, other.cfg.DATASET.NAME),
            ("backbone", self.cfg.MODEL.BACKBONE.NAME, other.cfg.MODEL.BACKBONE.NAME),
        ):
            if ours != theirs:
                return f"its {what} is {theirs}, not {ours}"
        return first_difference(self.classnames, other.dm.dataset.classnames)

    @property
    def label(self) -> str:
        """The label of the tuned run in `models`."""
        return list(self.models)[1]

    def plain_clip(self, template: str = GENERIC) -> TunedCLIP:
        """The untouched CLIP that the tuned run started from, with `template`; "dataset" is the dataset's own.

        It shares the frozen weights of the tuned model, which no adapter can change: `TunedCLIP` makes sure of that.
        """
        text = dataset_template(self.cfg) if template == "dataset" else template
        plain = TunedCLIP(self.tuned.clip, self.classnames, ZeroshotConfig(), text, "fp32", self.device)
        return plain.eval().requires_grad_(False)

    def template_note(self) -> str:
        """For figures about text: the template of each model, where these are not all the same; otherwise ""."""
        if len({model.template for model in self.models.values()}) == 1:
            return ""
        named = [f"{label} “{model.template}”" for label, model in self.models.items()]
        note = f" The templates differ, which alone changes these numbers: {'; '.join(named)}."
        for label, model in self.models.items():
            if not model.adapters.text.prompt_count and model.template != self.plain.template:
                option = "dataset" if model.template == dataset_template(self.cfg) else f'"{model.template}"'
                note += f" `--template {option}` gives {ZERO_SHOT} the template of “{label}”."
        return note

    def __len__(self) -> int:
        """How many test images `batches` yields."""
        return len(self.indices)

    @property
    def total(self) -> int:
        """The number of images in the test set, of which `indices` may be a few."""
        return len(self._data.test)

    def stratified(self, count: int, few_shot: int | None = None) -> "Comparison":
        """The same models on at most `count` of these images: evenly spaced after sorting them by class.

        Args:
            few_shot: so many of the few-shot training images at most, in the same way; None: all.
        """
        few = copy.copy(self)
        few.indices = over_classes(self._data.test, self.indices, count)
        if few_shot is not None:
            few.few_shot = over_classes(self._data.train_x, self.few_shot, few_shot)
        return few

    def batches(self, title: str = "", split: str = "test") -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, 3, S, S), preprocessed as in testing, and labels (B,), with a progress bar.

        Args:
            title: of the progress bar.
            split: "test", or "train" for the few-shot images that the tuned run was trained on, without augmentation.

        Raises:
            UserError: the run was not trained.
        """
        if split == "train" and self.tested_only:
            raise UserError(
                f"{self.model_dir} only tested what another run had trained, and has no few-shot images; name that run"
            )
        items, which = (self._data.test, self.indices) if split == "test" else (self._data.train_x, self.few_shot)
        source = [items[i] for i in which]
        with tqdm(total=len(source), desc=title, unit="image", leave=False, disable=None) as bar:
            for image, label in eval_batches(self.cfg, source, self._transform, self.batch_size):
                yield image.to(self.device), label.to(self.device)
                bar.update(len(label))

    def images(self, title: str = "", split: str = "test") -> Iterator[Tensor]:
        """As `batches`, without the labels."""
        for image, _ in self.batches(title, split):
            yield image

    def masks(self) -> Iterator[Tensor]:
        """Where the foreground of each test image is, (S, S) in [0, 1], resized and cropped exactly as the image.

        Raises:
            UserError: the dataset has no masks, or one is missing.
        """
        read = mask_reader(self.cfg.DATASET.NAME, self._data.dataset_dir)
        for item in (self._data.test[i] for i in self.indices):
            grey = Image.fromarray((255 * read(item.impath)).astype(np.uint8)).convert("RGB")
            yield torch.from_numpy(self.picture(self._transform(grey)[None])[..., 0]).float()

    def image(self, index: int) -> tuple[Tensor, int]:
        """Image `index` of the test set (1, 3, S, S), as `batches` yields it, and its label. It need not be a sample.

        Raises:
            UserError: there is no such image.
        """
        test = self._data.test
        if not 0 <= index < len(test):
            raise UserError(f"there is no test image {index}: they are numbered from 0 to {len(test) - 1}")
        image, label = one_image(self.cfg, test[index], self._transform)
        return image.to(self.device), label

    def picture(self, image: Tensor) -> np.ndarray:
        """A preprocessed image (1, 3, S, S) as a picture to show: (S, S, 3), from 0 to 1."""
        picture = image[0].cpu().permute(1, 2, 0).numpy()
        if "normalize" in self.cfg.INPUT.TRANSFORMS:
            picture = picture * np.array(self.cfg.INPUT.PIXEL_STD) + np.array(self.cfg.INPUT.PIXEL_MEAN)
        return picture.clip(0, 1)


class ComparisonOverSeeds(Comparison):
    """Runs of several seeds: in itself the comparison of the first seed, and in `each_seed` those of all.

    Only one more comparison than this is loaded at a time.

    Args:
        folders: each with runs of one kind, seed1, seed2, ...; the first holds the tuned runs.
        options: of `Comparison`, after its first two.

    Attributes:
        seeds: that all folders have.

    Raises:
        UserError: as `Comparison`, or one folder has a seed that another lacks.
    """

    def __init__(self, folders: Sequence[str], *options: Any) -> None:
        self.folders, self.options, self.seeds = folders, options, seeds_in(folders[0])
        for folder in folders[1:]:
            for ours, theirs in ((folders[0], folder), (folder, folders[0])):
                for seed in sorted(set(seeds_in(theirs)) - set(seeds_in(ours))):
                    raise UserError(f"{ours} has no seed{seed}, which {theirs} has; every folder needs the same seeds")
        super().__init__(*self.runs_of(self.seeds[0]), *options)

    def runs_of(self, seed: int) -> tuple[str, list[str]]:
        """The tuned run of a seed, and those that it is compared with."""
        tuned, *compared = (os.path.join(folder, f"seed{seed}") for folder in self.folders)
        return tuned, compared

    def each_seed(self) -> Iterator[Comparison]:
        yield self
        for seed in self.seeds[1:]:
            other = Comparison(*self.runs_of(seed), *self.options)
            other.indices = self.indices
            other.few_shot = over_classes(other._data.train_x, other.few_shot, len(self.few_shot))
            difference = first_difference(self.classnames, other.classnames)
            if difference or list(other.models) != list(self.models):
                raise UserError(
                    f"the runs of seed {seed} cannot be averaged with those of seed {self.seeds[0]}: "
                    + (difference or f"they are {', '.join(other.models)}, not {', '.join(self.models)}")
                )
            yield other


def evenly_spaced(items: Sequence, count: int | None) -> list:
    """`count` evenly spaced items, so that a test set sorted by class keeps all its classes; None: all.

    Raises:
        UserError: there are fewer.
    """
    if count is None:
        return list(items)
    if not 1 <= count <= len(items):
        raise UserError(f"--samples is {count}, but must be between 1 and {len(items)}, the images of the test set")
    return [items[i * len(items) // count] for i in range(count)]


def over_classes(items: Sequence[Any], indices: Sequence[int], count: int) -> list[int]:
    """At most `count` of the `indices` of labelled items: evenly spaced after sorting them by class."""
    by_class = sorted(indices, key=lambda index: items[index].label)
    return sorted(evenly_spaced(by_class, min(count, len(by_class))))


def labelled(models: dict[str, TunedCLIP]) -> dict[str, TunedCLIP]:
    """folder -> model becomes label -> model; equal labels get what is different in the folders' paths."""
    by_label: dict[str, list[str]] = {}
    for folder, model in models.items():
        by_label.setdefault(model.label, []).append(folder)
    unique: dict[str, str] = {}
    for label, folders in by_label.items():
        names = [f"{label} ({name})" for name in short_names(folders)] if len(folders) > 1 else [label]
        unique.update(zip(folders, names))
    return {unique[folder]: model for folder, model in models.items()}


def first_difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """How another run's class names differ from ours, in a few words; "" if they do not."""
    for i, (own, other) in enumerate(zip_longest(ours, theirs, fillvalue="none"), 1):
        if own != other:
            return f'it has {len(theirs)} classes, and this one {len(ours)}; class {i} is "{other}", not "{own}"'
    return ""
