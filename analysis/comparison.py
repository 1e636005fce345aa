"""The runs that an analysis looks at: loaded from their folders, in float32, next to plain CLIP."""

import os
from collections.abc import Iterator, Sequence
from itertools import zip_longest

import numpy as np
from promptbias.trainers.zeroshot import ZeroshotConfig
from torch import Tensor
from tqdm import tqdm

from promptbias.engine.data import eval_batches, one_image
from promptbias.engine.load import load_trainer
from promptbias.experiments.results import short_names
from promptbias.model.encoder import Tower
from promptbias.model.templates import GENERIC, dataset_template, validate_template
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.utils.errors import UserError

ZERO_SHOT = "zero-shot CLIP"


class Comparison:
    """A tuned run, the plain CLIP it started from, runs to compare it with, and the images they are tested on.

    Args:
        model_dir: folder of a finished run; its `config.yaml` says all the rest.
        compare: folders of further runs on the same dataset and backbone.
        template: text of plain CLIP, with one {}; "dataset" is the dataset's own.
        samples: so many test images, spread evenly over the test set (None: all).
        batch_size: images at a time; no result depends on it.
        root: folder of the datasets, where it is not the one in `config.yaml`.

    Attributes:
        cfg: config of the tuned run.
        tuned, plain: the two models to compare in every figure; float32, nothing requires a gradient.
        models: label -> model, first plain, then tuned, then `compare`.
        classnames: K names.
        device: where the models are.

    Raises:
        UserError: no finished run, a run of another dataset or backbone, or named twice, fewer images than asked, a template
            without {}.
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
        trainer = load_trainer(model_dir, root)
        self.cfg, self.tuned, self._data = trainer.cfg, trainer.model, trainer.dm.dataset
        self._transform = trainer.test_loader.dataset.transform
        self.device = trainer.device
        self.classnames: list[str] = self._data.classnames
        self.plain = self.plain_clip(template)
        tuned = {os.path.abspath(model_dir): self.tuned}
        for folder in compare:
            if os.path.abspath(folder) in tuned:
                raise UserError(f"{folder} is named twice; a run needs no comparison with itself")
            other = load_trainer(folder, root)
            for what, ours, theirs in (
                ("dataset", self.cfg.DATASET.NAME, other.cfg.DATASET.NAME),
                ("backbone", self.cfg.MODEL.BACKBONE.NAME, other.cfg.MODEL.BACKBONE.NAME),
            ):
                if ours != theirs:
                    raise UserError(f"{folder} cannot be compared with {model_dir}: its {what} is {theirs}, not {ours}")
            if self.classnames != other.dm.dataset.classnames:
                raise UserError(
                    f"{folder} cannot be compared with {model_dir}: "
                    + first_difference(self.classnames, other.dm.dataset.classnames)
                )
            tuned[os.path.abspath(folder)] = other.model
        self.models: dict[str, TunedCLIP] = {ZERO_SHOT: self.plain, **labelled(tuned)}
        self._test = evenly_spaced(self._data.test, samples)

    @property
    def label(self) -> str:
        """Of the tuned run, as in `models`."""
        return list(self.models)[1]

    def plain_clip(self, template: str = GENERIC) -> TunedCLIP:
        """The CLIP that the tuned run started from, with `template`.

        Its weights are the tuned model's frozen ones, which no adapter can change: `TunedCLIP` sees to that.
        """
        text = dataset_template(self.cfg) if template == "dataset" else template
        plain = TunedCLIP(self.tuned.clip, self.classnames, ZeroshotConfig(), text, "fp32", self.device)
        return plain.eval().requires_grad_(False)

    def on_words(self) -> str:
        """For figures about text, a sentence on each run that has no text prompts and other words than plain CLIP."""
        sentences = []
        for label, model in self.models.items():
            if not model.adapters.text.prompt_count and model.template != self.plain.template:
                option = "dataset" if model.template == dataset_template(self.cfg) else f'"{model.template}"'
                sentences.append(
                    f" The text of “{label}” is “{model.template}”, that of {ZERO_SHOT} “{self.plain.template}”: "
                    f"the two differ by these words too, and `--template {option}` compares like with like."
                )
        return "".join(sentences)

    def __len__(self) -> int:
        """Test images that `batches` goes through."""
        return len(self._test)

    def batches(self, what: str = "", split: str = "test") -> Iterator[tuple[Tensor, Tensor]]:
        """Images (B, 3, S, S), as in testing, and labels (B,), with a progress bar.

        Args:
            what: title of the progress bar.
            split: "test", or "train" for the few-shot images that the tuned run learned from, without augmentation.
        """
        source = self._test if split == "test" else self._data.train_x
        with tqdm(total=len(source), desc=what, unit="image", leave=False, disable=None) as bar:
            for image, label in eval_batches(self.cfg, source, self._transform, self.batch_size):
                yield image.to(self.device), label.to(self.device)
                bar.update(len(label))

    def image(self, index: int) -> tuple[Tensor, int]:
        """Test image `index` (1, 3, S, S), as `batches` gives it, and its class.

        Raises:
            UserError: there is no such image.
        """
        if not 0 <= index < len(self):
            raise UserError(f"there is no test image {index}: they are numbered from 0 to {len(self) - 1}")
        image, label = one_image(self.cfg, self._test[index], self._transform)
        return image.to(self.device), label

    def picture(self, image: Tensor) -> np.ndarray:
        """An image (1, 3, S, S) as the model sees it -> as people do, (S, S, 3) from 0 to 1."""
        picture = image[0].cpu().permute(1, 2, 0).numpy()
        if "normalize" in self.cfg.INPUT.TRANSFORMS:
            picture = picture * np.array(self.cfg.INPUT.PIXEL_STD) + np.array(self.cfg.INPUT.PIXEL_MEAN)
        return picture.clip(0, 1)


def evenly_spaced(items: Sequence, count: int | None) -> list:
    """`count` of the items at even distances, so that a test set sorted by class keeps all its classes.

    Raises:
        UserError: there are not so many.
    """
    if count is None:
        return list(items)
    if not 1 <= count <= len(items):
        raise UserError(f"--samples is {count}, but must be between 1 and {len(items)}, the images of the test set")
    return [items[i * len(items) // count] for i in range(count)]


def labelled(models: dict[str, TunedCLIP]) -> dict[str, TunedCLIP]:
    """folder -> model becomes label -> model; where descriptions clash, with what tells their folders apart."""
    described = {folder: model.label for folder, model in models.items()}
    labels = {}
    for folder, label in described.items():
        clashing = [other for other in described if described[other] == label]
        name = dict(zip(clashing, short_names(clashing)))[folder]
        labels[folder] = f"{label} ({name})" if len(clashing) > 1 else label
    return {labels[folder]: model for folder, model in models.items()}


def first_difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    """How another run's class names differ from ours, in a few words."""
    pairs = zip_longest(theirs, ours, fillvalue="none")
    at, (other, own) = next((i, pair) for i, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    return f'it has {len(theirs)} classes, not these {len(ours)}: class {at} is "{other}", not "{own}"'


def choose_blocks(tower: Tower, blocks: Sequence[int] | None) -> list[int]:
    """Block numbers counted from 1, as users give them, to indices; all where none are given.

    Raises:
        UserError: there is no such block.
    """
    return _choose("block", blocks, len(tower.blocks))


def choose_heads(tower: Tower, heads: Sequence[int] | None) -> list[int]:
    """Head numbers counted from 1 to indices; all where none are given.

    Raises:
        UserError: there is no such head.
    """
    return _choose("head", heads, tower.heads)


def _choose(what: str, numbers: Sequence[int] | None, count: int) -> list[int]:
    for number in numbers or ():
        if not 1 <= number <= count:
            raise UserError(f"there is no {what} {number}: {what}s are numbered from 1 to {count}")
    return [number - 1 for number in numbers or range(1, count + 1)]
