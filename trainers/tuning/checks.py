"""Values of a config that no training could come of, refused before anything is loaded."""
from yacs.config import CfgNode

from .errors import UserError
from .run_files import flatten

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
        if not flat[key] >= least:
            raise UserError(f"{key} is {flat[key]}, but has to be at least {least}")
    for key, known in ONE_OF.items():
        if flat[key] not in known:
            raise UserError(f"{key} is {flat[key]!r}, but has to be {' or '.join(map(repr, known))}")
    low, high = flat["INPUT.RRCROP_SCALE"]
    if not 0 < low <= high <= 1:
        raise UserError(f"INPUT.RRCROP_SCALE is {(low, high)}, but has to be two shares of the area, the smaller one first")
    for key in ("INPUT.PIXEL_MEAN", "INPUT.PIXEL_STD"):
        if len(flat[key]) != 3 or key.endswith("STD") and not all(value > 0 for value in flat[key]):
            raise UserError(f"{key} is {flat[key]}, but has to be three numbers, for red, green and blue"
                            + (", above 0" if key.endswith("STD") else ""))
