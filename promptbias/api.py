"""What a script or a notebook calls: build, tune and load models, and explain one prediction."""

import contextlib
import io
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from promptbias.engine.discovery import register_all
from promptbias.engine.load import load_model
from promptbias.engine.registry import tuning_trainers
from promptbias.interp import relevancy as relevancy_maps
from promptbias.model.backbones import EMBEDDED, path_of
from promptbias.model.loading import load_clip
from promptbias.model.method import MethodConfig
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.utils.errors import UserError, nearest
from promptbias.utils.paths import CONFIGS


def methods() -> dict[str, type[MethodConfig]]:
    """The tuning methods by name, each as the dataclass of its options."""
    register_all()
    return {name: trainer.custom_clip.config for name, trainer in tuning_trainers().items()}


def method_config(name: str, options: dict[str, Any]) -> MethodConfig:
    """A method by its name, with options by the names of its fields.

    Raises:
        UserError: no such method, or no such option.
    """
    known = methods()
    if name not in known:
        raise UserError(f'there is no method "{name}": {nearest(name, known)}')
    fields = [field.name for field in known[name].option_fields()]
    for option in options:
        if option not in fields:
            hint = nearest(option, fields) if fields else "it has none"
            raise UserError(f'{name} has no option "{option}": {hint}')
    return known[name](**options)


def build(
    method: str | MethodConfig,
    classnames: Sequence[str],
    backbone: Any = "ViT-B/16",
    template: str | None = None,
    precision: str = "auto",
    device: torch.device | str | None = None,
    **options: Any,
) -> TunedCLIP:
    """An untrained model.

        model = promptbias.build("BiasTuning", ["cat", "dog"], backbone="tiny", depth_text=0)

    Args:
        method: name of a method, with its `options` by name; or its config.
        classnames: K names.
        backbone: a stock CLIP, or what `load_clip` takes: "tiny", one of OpenAI's names, a weights file, a Hugging Face
            folder or "hf:<hub name>", "open_clip:<model>/<tag>".
        template: text with one {} for the class name (default: "a photo of a {}.").
        precision: fp32, fp16, bf16, amp or auto.
        device: where the model goes.

    Raises:
        UserError: an unknown method or option, options that do not fit this CLIP, weights that cannot be had.
    """
    config = method_config(method, options) if isinstance(method, str) else method
    clip_model = load_clip(os.fspath(backbone)) if isinstance(backbone, (str, os.PathLike)) else backbone
    return TunedCLIP(clip_model, classnames, config, template, precision, device)


def load(folder: str | os.PathLike, precision: str = "fp32", device: str = "cpu") -> TunedCLIP:
    """The tuned model of the finished run in `folder`; its data need not be there.

    Args:
        precision: fp32, fp16, bf16, amp or auto.
        device: "cpu" or "cuda".

    Raises:
        UserError: there is no finished run, or its checkpoint or its CLIP's weights cannot be read, or there is no GPU.
    """
    return load_model(os.fspath(folder), precision, device_for(device))


def device_for(name: str) -> str:
    """The device itself.

    Raises:
        UserError: it is a GPU, and there is none.
    """
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f'the device "{name}" is asked for, but torch finds no GPU here; take "cpu"')
    return name


def tune(
    images: str | os.PathLike,
    method: str = "BiasTuning",
    backbone: str = "ViT-B/16",
    shots: int = 16,
    *,
    output: str | os.PathLike = "",
    template: str = "",
    seed: int = 1,
    settings: Sequence[str] = (),
    **options: Any,
) -> TunedCLIP:
    """Train a method on a folder of images, <class name>/*.jpg, and return the tuned model.

    The run is that of `promptbias train` with the method's settings for the backbone (`configs/trainers/<method>/`), in
    the folder `output`: a finished one is loaded, an interrupted one resumes.

    Args:
        images: folder of class folders, optionally below train/, val/ and test/.
        method: name of a method; its `options` by name, such as depth_text=0.
        backbone: by name, as `load_clip` takes it.
        shots: images per class; -1 for all.
        output: folder of the run (default: output/<folder>/<method>/<backbone>_<shots>shots/seed<seed>).
        template: text with one {} for the class name (default: "a photo of a {}.").
        seed: of the few-shot draw, the order and the augmentation.
        settings: KEY VALUE pairs of the configuration, such as ["OPTIM.MAX_EPOCH", "20"].

    Raises:
        UserError: a folder without images, an unknown method or option, weights that cannot be had, a loss that is not
            finite.
    """
    from promptbias.engine import train

    config = method_config(method, options)
    images = os.fspath(images)
    name = tuning_trainers()[method].default_config
    dataset = os.path.basename(os.path.abspath(images))
    cfg_name = f"{name.format(short_name(backbone))}_{shots}shots"
    folder = os.fspath(output) or os.path.join("output", dataset, method, cfg_name, f"seed{seed}")
    pairs = {"DATASET.NUM_SHOTS": shots, **{config.key(option): value for option, value in options.items()}}
    if template:
        pairs["DATASET.TEMPLATE"] = template
    settings_of = name.format("tiny" if backbone in EMBEDDED else "vit_b16")
    config_file = os.path.join(CONFIGS, "trainers", method, f"{settings_of}.yaml")
    argv = run_argv(images, seed, method, backbone, config_file, folder, pairs)
    with contextlib.redirect_stdout(io.StringIO()):  # all of it is in the run's log.txt; the progress bar is on stderr
        train.main([*argv, *settings])
    return load(folder)


def short_name(backbone: str) -> str:
    """What a backbone is called in the names of folders.

    >>> short_name("ViT-L/14@336px"), short_name("hf:openai/clip-vit-base-patch32")
    ('vit_l14_336px', 'hf_openai_clip_vit_base_patch32')
    """
    path = path_of(backbone)
    name = os.path.splitext(os.path.basename(os.path.abspath(path)))[0] if path else backbone
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=-[BLHg])/", "", name).lower()).strip("_")


def run_argv(
    images: str, seed: int, method: str, backbone: str, config_file: str, folder: str, pairs: dict[str, Any]
) -> list[str]:
    """The arguments of `promptbias train` for a run on a folder of images."""
    flags = {
        "--root": images,
        "--seed": seed,
        "--trainer": method,
        "--backbone": backbone,
        "--dataset-config-file": os.path.join(CONFIGS, "datasets", "image_folder.yaml"),
        "--config-file": config_file,
        "--output-dir": folder,
        "--resume": folder,
    }
    return [str(word) for pair in (*flags.items(), *pairs.items()) for word in pair]


class RelevancyMaps(NamedTuple):
    """How much each part of an image and of a text contributes to their score; each row sums to 1."""

    patches: Tensor  # (side, side), as the patches lie in the image
    prompts: Tensor  # (V,), of the vision branch, summed over blocks
    tokens: Tensor  # (N,), SOS, prompts or template, class name, up to the one before EOS


def relevancy(model: TunedCLIP, image: Any, classname: str | int, first_block: int = 0) -> RelevancyMaps:
    """What speaks for a class in an image (section 3.2.2 of the paper, eqs. 13-16).

    Args:
        image: a PIL image, the path of one, or a tensor (3, S, S) or (1, 3, S, S), preprocessed already.
        classname: one of the model's classes, or its index.
        first_block: the block (from 0) at which relevancy starts.

    Raises:
        UserError: no such class, a file that is not an image.
    """
    from promptbias.model.images import to_batch

    if isinstance(image, Tensor) and image.ndim == 3:
        image = image[None]
    size = model.vision.visual.input_resolution
    batch = to_batch(image, model.preprocess, size, model.open_image).to(model.logit_scale.device)
    label = torch.tensor([class_index(model, classname)], device=batch.device)
    of_image, of_text = relevancy_maps.relevancy(model, batch, label, first_block)
    of_image, of_text = relevancy_maps.shares(of_image)[0], relevancy_maps.shares(of_text)[0]
    M, eos = model.vision.patches, int(model.text.tokens[label].argmax())
    side = int(M**0.5)
    return RelevancyMaps(of_image[:M].view(side, side), of_image[M:], of_text[:eos])


def class_index(model: TunedCLIP, classname: str | int) -> int:
    """Index of a class by its name.

    Raises:
        UserError: the model has no such class.
    """
    if isinstance(classname, str):
        if classname not in model.classnames:
            raise UserError(f'the model has no class "{classname}": {nearest(classname, model.classnames)}')
        return model.classnames.index(classname)
    if not 0 <= classname < len(model.classnames):
        raise UserError(f"the model has no class {classname}: they are numbered from 0 to {len(model.classnames) - 1}")
    return classname
