"""Images of a dataset as a model sees them in testing."""

from collections.abc import Iterator, Sequence
from typing import Any

from dassl.data.data_manager import DatasetWrapper, build_data_loader
from torch import Tensor


def eval_batches(cfg: Any, items: Sequence[Any], transform: Any, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (B, 3, S, S) and labels (B,) of Dassl's `Datum` items, in their order."""
    loader = build_data_loader(cfg, "SequentialSampler", items, batch_size, tfm=transform, is_train=False)
    for batch in loader:
        yield batch["img"], batch["label"]


def one_image(cfg: Any, item: Any, transform: Any) -> tuple[Tensor, int]:
    """The image (1, 3, S, S) of an item, and its label."""
    sample = DatasetWrapper(cfg, [item], transform=transform)[0]
    return sample["img"][None], sample["label"]
