"""Config values with which no training can work, refused before anything is loaded."""

import math
from typing import Any, NamedTuple

from yacs.config import CfgNode

from promptbias.engine.config import flatten
from promptbias.utils.errors import UserError


class Range(NamedTuple):
    """Numbers that are allowed, both ends included."""

    low: float
    high: float = math.inf

    def __contains__(self, value: object) -> bool:
        return is_number(value) and self.low <= value <= self.high  # type: ignore[operator]

    def __str__(self) -> str:
        return f"at least {self.low}" if self.high == math.inf else f"between {self.low} and {self.high}"


FRACTION = Range(0, 1)
DECAY = Range(0, 0.999999)  # Adam divides by 1 - beta

RANGES = {
    "OPTIM.MAX_EPOCH": Range(1),
    "OPTIM.LR": Range(0),
    "OPTIM.WEIGHT_DECAY": Range(0),
    "OPTIM.MOMENTUM": Range(0),
    "OPTIM.GAMMA": Range(0),
    "OPTIM.WARMUP_CONS_LR": Range(0),
    "OPTIM.WARMUP_MIN_LR": Range(0),
    "OPTIM.BASE_LR_MULT": Range(0),
    "OPTIM.RMSPROP_ALPHA": Range(0),
    "OPTIM.ADAM_BETA1": DECAY,
    "OPTIM.ADAM_BETA2": DECAY,
    "DATALOADER.TRAIN_X.BATCH_SIZE": Range(1, 2**31),
    "DATALOADER.TRAIN_X.N_INS": Range(1, 2**31),
    "DATALOADER.TEST.BATCH_SIZE": Range(1, 2**31),
    "DATALOADER.NUM_WORKERS": Range(0, 256),
    "DATASET.VAL_PERCENT": FRACTION,
    "INPUT.CROP_PADDING": Range(0, 4096),
    "INPUT.CUTOUT_N": Range(0, 4096),
    "INPUT.CUTOUT_LEN": Range(0, 4096),
    "INPUT.COLORJITTER_B": Range(0),
    "INPUT.COLORJITTER_C": Range(0),
    "INPUT.COLORJITTER_S": Range(0),
    "INPUT.COLORJITTER_H": Range(0, 0.5),
    "INPUT.RGS_P": FRACTION,
    "INPUT.GB_P": FRACTION,
    "INPUT.GN_STD": Range(0),
    "TRAIN.PRINT_FREQ": Range(1),
}
ONE_OF = {
    "DATALOADER.K_TRANSFORMS": (1,),
    "INPUT.NO_TRANSFORM": (False,),
    "TEST.FINAL_MODEL": ("last_step", "best_val"),
    "TEST.SPLIT": ("test", "val"),
}
LARGEST_IMAGE = 4096  # pixels


def check_values(cfg: CfgNode) -> None:
    """Refuse values that no training can work with.

    Raises:
        UserError: a value is out of its range; names the key and the range.
    """
    check_writable(cfg)
    flat = flatten(cfg)
    for key, allowed_range in RANGES.items():
        if key in flat and flat[key] not in allowed_range:
            raise UserError(f"{key} is {flat[key]}, but must be {allowed_range}")
    for key, allowed in ONE_OF.items():
        if flat[key] not in allowed:
            raise UserError(f"{key} is {flat[key]!r}, but must be {' or '.join(map(repr, allowed))}")
    check_input(cfg.INPUT)
    check_optim(cfg.OPTIM)


def check_seed(cfg: CfgNode) -> None:
    """Refuse a seed that numpy cannot take; a negative one means unseeded, as in Dassl.

    Raises:
        UserError: it is too large.
    """
    if cfg.SEED >= 2**32:
        raise UserError(f"the seed is {cfg.SEED}, but must be below 2**32")


def check_writable(cfg: CfgNode) -> None:
    """Refuse what no log and no path can hold, or no arithmetic survives, whatever the trainer.

    Raises:
        UserError: a number that is not finite, or text with a NUL or of broken UTF-8.
    """
    for key, value in flatten(cfg).items():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, float) and not math.isfinite(part):
                raise UserError(f"{key} is {value}, but must be finite")
            if isinstance(part, str) and ("\0" in part or not is_utf8(part)):
                raise UserError(f"{key} is {value!r}, but must be text in UTF-8 without a NUL")


def check_input(cfg: CfgNode) -> None:
    """Refuse settings of the images that do not work.

    Raises:
        UserError: names the key under INPUT and what it must be.
    """

    def must(key: str, holds: bool, be: str) -> None:
        if not holds:
            raise UserError(f"INPUT.{key} is {cfg[key]}, but must be {be}")

    size, scale, names = cfg.SIZE, cfg.RRCROP_SCALE, cfg.TRANSFORMS
    whole = are_numbers(size, 2) and all(isinstance(n, int) and 1 <= n <= LARGEST_IMAGE for n in size)
    must("SIZE", whole, f"height and width in whole pixels up to {LARGEST_IMAGE}, such as (224, 224)")
    must("TRANSFORMS", all(isinstance(name, str) for name in names), "names of transforms, such as ('normalize',)")
    good = are_numbers(scale, 2) and 0 < scale[0] <= scale[1] <= 1
    must("RRCROP_SCALE", good, "two fractions of the image area, the smaller one first")
    must("PIXEL_MEAN", are_numbers(cfg.PIXEL_MEAN, 3), "three numbers, for red, green and blue")
    good = are_numbers(cfg.PIXEL_STD, 3) and min(cfg.PIXEL_STD) > 0
    must("PIXEL_STD", good, "three numbers above 0, for red, green and blue")
    must("GB_K", cfg.GB_K > 0 and cfg.GB_K % 2 == 1, "an odd number of pixels")


def check_optim(cfg: CfgNode) -> None:
    """Refuse settings of the optimizer that do not go together.

    Raises:
        UserError: names the key under OPTIM and what it must be.
    """
    if cfg.SGD_NESTEROV and cfg.NAME == "sgd" and not (cfg.MOMENTUM > 0 and cfg.SGD_DAMPNING == 0):
        raise UserError("OPTIM.SGD_NESTEROV needs an OPTIM.MOMENTUM above 0 and an OPTIM.SGD_DAMPNING of 0")
    steps = cfg.STEPSIZE if isinstance(cfg.STEPSIZE, (list, tuple)) else [cfg.STEPSIZE]
    if not steps or not all(type(step) is int for step in steps):
        raise UserError(f"OPTIM.STEPSIZE is {cfg.STEPSIZE}, but must be whole numbers of epochs, such as (10, 20)")


def is_number(value: Any) -> bool:
    """Whether `value` is a number, which True and False are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def are_numbers(values: Any, count: int) -> bool:
    """Whether `values` is a list or tuple of `count` numbers."""
    return isinstance(values, (list, tuple)) and len(values) == count and all(map(is_number, values))


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can hold `text`; a word of the command line in another encoding is kept in a way that it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
