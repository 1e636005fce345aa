"""What is exported: a tuned model, what its run says of it, and the images that the export is compared on."""

import copy
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor

from promptbias.engine import run_folder
from promptbias.engine.load import load_model, load_trainer
from promptbias.model.images import Image
from promptbias.model.templates import fill
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.utils.errors import UserError

IMAGES = 32  # test images that an export is compared on


class Run(msgspec.Struct):
    """What is told of a run."""

    trainer: str
    backbone: str
    dataset: str
    shots: int
    seed: int
    accuracy: float  # in %


class ImageInput(msgspec.Struct):
    """How an RGB image becomes what CLIP sees: shorter side to `size`, centre crop, to [0, 1], (x - mean) / std."""

    size: int
    interpolation: str
    mean: Sequence[float]
    std: Sequence[float]


@dataclass
class Source:
    """A model in float32 on the CPU, in eval mode, without gradients.

    Attributes:
        images: RGB, of any size.
        run: None for a model that comes without its run.
    """

    model: TunedCLIP
    images: Sequence[Any]
    run: Run | None = None

    @property
    def image_input(self) -> ImageInput:
        """What `model.preprocess` does."""
        mean, std, interpolation = self.model.preprocessing
        return ImageInput(self.model.vision.visual.input_resolution, interpolation, mean, std)

    @property
    def backbone(self) -> str:
        """The name of the CLIP that was tuned; "" if it is not known."""
        return self.run.backbone if self.run else ""

    @property
    def labels(self) -> list[str]:
        """The class names as they stand in the texts."""
        return fill("{}", self.model.classnames)

    @property
    def texts(self) -> list[str]:
        """One text per class."""
        return fill(self.model.template, self.model.classnames)

    @functools.cached_property
    def pixels(self) -> Tensor:
        """The images as CLIP sees them, (B, 3, S, S)."""
        return torch.stack([self.model.preprocess(image) for image in self.images])

    @functools.cached_property
    def logits(self) -> Tensor:
        """What the tuned model says of the images, (B, K)."""
        return self.model.logits(self.pixels)

    @property
    def stock(self) -> Any:
        """The stock CLIP as it was before tuning."""
        return self.model.clip

    @functools.cached_property
    def folded(self) -> Any:
        """The stock CLIP that is the tuned model.

        Raises:
            UserError: the method does not fold.
        """
        return copy.deepcopy(self.model).fold()

    @property
    def quick_gelu(self) -> bool:
        """Whether the activation is OpenAI's QuickGELU, and not GELU."""
        return type(self.stock.visual.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"


def of_run(folder: str, images: Sequence[Image] = (), root: str = "") -> Source:
    """The model of the finished run in `folder`.

    Args:
        images: to compare on, instead of the run's test images.
        root: folder of the datasets, where it is not the one in the run's config.

    Raises:
        UserError: there is no finished run, or its data, its checkpoint or its CLIP's weights cannot be read.
    """
    if images:
        model = load_model(folder)
    else:
        trainer = load_trainer(folder, root)
        model, test = trainer.model, trainer.dm.dataset.test
        model.preprocess = trainer.test_loader.dataset.transform
        images = [item.impath for item in test[:: max(1, len(test) // IMAGES)][:IMAGES]]
    return Source(model.to("cpu"), [model.open_image(image) for image in images], read_run(folder))


def of_model(model: TunedCLIP, images: Sequence[Image]) -> Source:
    """A copy of a model, compared on `images`.

    Raises:
        UserError: it does not compute in float32, or there is no image.
    """
    if model.precision != "fp32":
        raise UserError(f'this model computes in {model.precision}; load it with precision="fp32" to export it')
    if not images:
        raise UserError("a model without its run comes without images; give some in `images`, to compare its export on")
    copied = copy.deepcopy(model).to("cpu").eval().requires_grad_(False)
    return Source(copied, [model.open_image(image) for image in images])


def read_run(folder: str) -> Run:
    """What the finished run in `folder` says of itself.

    Raises:
        UserError: it is damaged.
    """
    cfg, results = run_folder.read_config(folder), run_folder.read_results(folder)
    data = cfg.DATASET
    dataset = data.NAME
    if dataset == "ImageFolder":  # which has no name of its own
        dataset = f"{os.path.basename(os.path.abspath(data.ROOT))} (a folder of images)"
    trainer, backbone = cfg.TRAINER.NAME, cfg.MODEL.BACKBONE.NAME
    return Run(trainer, backbone, dataset, data.NUM_SHOTS, cfg.SEED, results["accuracy"])
