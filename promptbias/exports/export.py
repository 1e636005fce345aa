"""From a run to a folder that another library loads."""

import importlib
import importlib.util
import os
import warnings
from collections.abc import Sequence

from promptbias.model.images import Image
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.utils.errors import UserError, nearest

from . import source as sources
from .card import write_card
from .folder import atomic_folder
from .target import Target
from .verify import Check, verify

# What --to names -> module and class.
TARGETS = {
    "clip": ("to_clip", "ToClip"),
    "hf": ("to_hf", "ToHF"),
    "peft": ("to_peft", "ToPEFT"),
    "open_clip": ("to_open_clip", "ToOpenCLIP"),
    "onnx": ("to_onnx", "ToONNX"),
    "torch": ("to_torch", "ToTorch"),
}
TWO_TOWERS = ("to_onnx", "ToTwoTowers")


def export(
    model: TunedCLIP | str | os.PathLike,
    to: str,
    out: str | os.PathLike,
    *,
    two_towers: bool = False,
    images: Sequence[Image] = (),
    root: str = "",
) -> Check:
    """Write a tuned model for another library: a folder that appears only when what was written is the tuned model.

        promptbias.export("output/digits/BiasTuning/tiny_16shots/seed1", to="onnx", out="three_or_not")

    Args:
        model: folder of a finished run; or a model in float32, with `images`.
        to: clip, hf, peft, open_clip, onnx or torch.
        out: folder to write, which must not exist.
        two_towers: with "onnx", an image and a text encoder in place of a classifier.
        images: to compare on: PIL images or paths (default: the run's test images).
        root: folder of the datasets, where it is not the one in the run's config.

    Returns:
        How far the two models agree.

    Raises:
        UserError: no such target, a package that it needs is not installed, `out` exists, a run that is not finished or
            whose images are not there, a method that does not fold where the target needs one that does, or a model
            that the target does not reproduce.
    """
    target = find_target(to, two_towers)
    out = os.path.abspath(out)
    if os.path.lexists(out):
        raise UserError(f"{out} exists already; choose another --out, or remove it")
    if isinstance(model, TunedCLIP):
        source = sources.of_model(model, images)
    else:
        source = sources.of_run(os.fspath(model), images, root)
    if target.folds and not source.model.method.folds:
        what = "an image and a text encoder" if two_towers else f"--to {to}"
        raise UserError(
            f"{source.model.label} does not fold into a stock CLIP, which {what} needs; "
            "take --to onnx or --to torch, which hold the whole classifier"
        )
    check_packages(to, target)
    with atomic_folder(out) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the libraries will do differently in versions to come
        target.write(source, folder)
        check = verify(target, source, folder)
        card = write_card(source, check, target, folder)
    return check._replace(card=card)


def find_target(to: str, two_towers: bool = False) -> Target:
    """A target by its name.

    Raises:
        UserError: no such target, or it has no two towers.
    """
    if to not in TARGETS:
        raise UserError(f'there is no target "{to}": {nearest(to, TARGETS)}')
    if two_towers and to != "onnx":
        raise UserError(f"--two-towers goes with --to onnx only, not with {to}")
    module, name = TWO_TOWERS if two_towers else TARGETS[to]
    return getattr(importlib.import_module(f"promptbias.exports.{module}"), name)()


def check_packages(to: str, target: Target) -> None:
    """Refuse a target whose packages are not installed.

    Raises:
        UserError: names them, and the extra that has them.
    """
    missing = [package for package, module in target.needs.items() if importlib.util.find_spec(module) is None]
    if missing:
        what, verb = ", ".join(missing), "is" if len(missing) == 1 else "are"
        raise UserError(f'--to {to} needs {what}, which {verb} not installed; run `pip install "promptbias[export]"`')
