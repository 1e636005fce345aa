"""Images of a dataset as a model sees them in testing."""

from collections.abc import Iterator, Sequence
from typing import Any

from dassl.data.data_manager import DatasetWrapper, build_data_loader
from PIL import ImageColor
from torch import Tensor

from promptbias.model.images import BACKGROUND
from promptbias.utils.errors import UserError

from .registry import READING
from .run_folder import dassl_is_ours


def check_reading(cfg: Any) -> None:
    """Check the keys that say how image files are read.

    Raises:
        UserError: INPUT.BACKGROUND is no colour, or the Dassl in use reads images in its own way.
    """
    if not dassl_is_ours() and any(cfg.INPUT.get(key, default) != default for key, default in READING.items()):
        raise UserError(
            "the installed Dassl reads images in its own way, without INPUT.EXIF and INPUT.BACKGROUND; leave them as "
            "they are, or put this project's compat/ first on PYTHONPATH"
        )
    try:
        ImageColor.getrgb(cfg.INPUT.get("BACKGROUND", BACKGROUND))
    except ValueError as error:
        raise UserError(
            f'INPUT.BACKGROUND is "{cfg.INPUT.BACKGROUND}", but must be a colour such as white, black or "#808080"'
        ) from error


def eval_batches(cfg: Any, items: Sequence[Any], transform: Any, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (B, 3, S, S) and labels (B,) of Dassl's `Datum` items, in their order."""
    loader = build_data_loader(cfg, "SequentialSampler", items, batch_size, tfm=transform, is_train=False)
    for batch in loader:
        yield batch["img"], batch["label"]


def one_image(cfg: Any, item: Any, transform: Any) -> tuple[Tensor, int]:
    """The image (1, 3, S, S) of an item, and its label."""
    sample = DatasetWrapper(cfg, [item], transform=transform)[0]
    return sample["img"][None], sample["label"]
