"""Config values with which no training can work, refused before anything is loaded."""

from typing import Any

from yacs.config import CfgNode

from promptbias.engine.config import flatten
from promptbias.utils.errors import UserError

AT_LEAST = {
    "OPTIM.MAX_EPOCH": 1,
    "OPTIM.LR": 0,
    "OPTIM.WEIGHT_DECAY": 0,
    "OPTIM.MOMENTUM": 0,
    "DATALOADER.TRAIN_X.BATCH_SIZE": 1,
    "DATALOADER.TEST.BATCH_SIZE": 1,
    "DATALOADER.NUM_WORKERS": 0,
    "TRAIN.PRINT_FREQ": 1,
}
ONE_OF = {
    "DATALOADER.K_TRANSFORMS": (1,),
    "INPUT.NO_TRANSFORM": (False,),
    "TEST.FINAL_MODEL": ("last_step", "best_val"),
    "TEST.SPLIT": ("test", "val"),
}


def check_values(cfg: CfgNode) -> None:
    """Refuse values that no training can work with.

    Raises:
        UserError: a value is out of its range; names the key and the range.
    """
    flat = flatten(cfg)
    for key, minimum in AT_LEAST.items():
        if not (are_numbers([flat[key]], 1) and flat[key] >= minimum):
            raise UserError(f"{key} is {flat[key]}, but must be at least {minimum}")
    for key, allowed in ONE_OF.items():
        if flat[key] not in allowed:
            raise UserError(f"{key} is {flat[key]!r}, but must be {' or '.join(map(repr, allowed))}")
    scale, mean, std = (flat[f"INPUT.{key}"] for key in ("RRCROP_SCALE", "PIXEL_MEAN", "PIXEL_STD"))
    if not (are_numbers(scale, 2) and 0 < scale[0] <= scale[1] <= 1):
        raise UserError(
            f"INPUT.RRCROP_SCALE is {scale}, but must be two fractions of the image area, the smaller one first"
        )
    if not are_numbers(mean, 3):
        raise UserError(f"INPUT.PIXEL_MEAN is {mean}, but must be three numbers, for red, green and blue")
    if not (are_numbers(std, 3) and min(std) > 0):
        raise UserError(f"INPUT.PIXEL_STD is {std}, but must be three numbers above 0, for red, green and blue")


def are_numbers(values: Any, count: int) -> bool:
    """Whether `values` is a list or tuple of `count` numbers."""
    return (
        isinstance(values, (list, tuple)) and len(values) == count and all(isinstance(v, (int, float)) for v in values)
    )
