"""`CustomCLIP(cfg, classnames, clip_model)`: a TunedCLIP from a Dassl configuration, as is usual in the CoOp family."""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch

from promptbias.model.backbones.backbone import VisionSize
from promptbias.model.images import BACKGROUND, Preprocessing, open_image
from promptbias.model.method import MethodConfig
from promptbias.model.templates import dataset_template, validate_template
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.utils.errors import UserError


def device_of(cfg: Any) -> str:
    """Where Dassl trains: "cuda" or "cpu"."""
    return "cuda" if cfg.USE_CUDA and torch.cuda.is_available() else "cpu"


def grad_scaler(enabled: bool) -> Any:
    """CUDA's gradient scaler, wherever this torch keeps it; a disabled one changes nothing."""
    if hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler("cuda", enabled=enabled)
    return torch.cuda.amp.GradScaler(enabled=enabled)


def say_other_pixels(cfg: Any, trained_with: Preprocessing | None) -> None:
    """Print a line if CLIP was trained on images normalised in another way than `cfg` says."""
    if trained_with is None or "normalize" not in cfg.INPUT.TRANSFORMS:
        return
    for key, value in (("PIXEL_MEAN", trained_with.mean), ("PIXEL_STD", trained_with.std)):
        if tuple(cfg.INPUT[key]) != tuple(value):
            print(f"Note: INPUT.{key} is {list(cfg.INPUT[key])}, but this CLIP was trained with {list(value)}")


class ConfiguredCLIP(TunedCLIP):
    """A method's `CustomCLIP` names the method as `config`.

    Args:
        cfg: a Dassl config; TRAINER.<node>, DATASET's template, INPUT.SIZE and USE_CUDA are read here.
        classnames: K names.
        clip_model: a stock CLIP with a ViT, in float32.

    Raises:
        UserError: as `TunedCLIP`; or INPUT.SIZE does not fit this CLIP.
    """

    config: ClassVar[type[MethodConfig]]

    def __init__(self, cfg: Any, classnames: Sequence[str], clip_model: Any) -> None:
        node = cfg.TRAINER[self.config.node]
        size = getattr(clip_model.visual, "input_resolution", None)
        if hasattr(clip_model.visual, "transformer") and tuple(cfg.INPUT.SIZE) != (size, size):
            raise UserError(
                f"INPUT.SIZE is {tuple(cfg.INPUT.SIZE)}, but this CLIP sees images of ({size}, {size}): it is a ViT of "
                f"{VisionSize.of(clip_model.state_dict())}"
            )
        say_other_pixels(cfg, getattr(clip_model, "preprocessing", None))
        named = node.get("TEMPLATE", "")
        template = validate_template(named, f"TRAINER.{self.config.node}.TEMPLATE") if named else dataset_template(cfg)
        super().__init__(clip_model, classnames, self.config.from_node(node), template, node.PREC, device_of(cfg))
        exif, background = cfg.INPUT.get("EXIF", False), cfg.INPUT.get("BACKGROUND", BACKGROUND)
        self.open_image = partial(open_image, exif=exif, background=background)
        mean, std = tuple(cfg.INPUT.PIXEL_MEAN), tuple(cfg.INPUT.PIXEL_STD)
        self.prepare_images(Preprocessing(mean, std, cfg.INPUT.INTERPOLATION))
