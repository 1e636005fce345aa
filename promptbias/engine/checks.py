"""Values of a config that no training could come of, refused before anything is loaded."""

from typing import Any

from yacs.config import CfgNode

from promptbias.engine.run_folder import flatten
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
    """Raises:
    UserError: a value is out of its range; names the key and the range.
    """
    flat = flatten(cfg)
    for key, least in AT_LEAST.items():
        if not (are_numbers([flat[key]], 1) and flat[key] >= least):
            raise UserError(f"{key} is {flat[key]}, but has to be at least {least}")
    for key, known in ONE_OF.items():
        if flat[key] not in known:
            raise UserError(f"{key} is {flat[key]!r}, but has to be {' or '.join(map(repr, known))}")
    scale, mean, std = (flat[f"INPUT.{key}"] for key in ("RRCROP_SCALE", "PIXEL_MEAN", "PIXEL_STD"))
    if not (are_numbers(scale, 2) and 0 < scale[0] <= scale[1] <= 1):
        raise UserError(f"INPUT.RRCROP_SCALE is {scale}, but has to be two shares of the area, the smaller one first")
    if not are_numbers(mean, 3):
        raise UserError(f"INPUT.PIXEL_MEAN is {mean}, but has to be three numbers, for red, green and blue")
    if not (are_numbers(std, 3) and min(std) > 0):
        raise UserError(f"INPUT.PIXEL_STD is {std}, but has to be three numbers above 0, for red, green and blue")


def are_numbers(values: Any, count: int) -> bool:
    """Whether these are `count` numbers."""
    return (
        isinstance(values, (list, tuple)) and len(values) == count and all(isinstance(v, (int, float)) for v in values)
    )
