"""The datasets of the CoOp family, under CoOp's names and in CoOp's folders on disk.

`reader.py` is what they share; a dataset's own file holds only what is specific to it. `prepare.py` is the command that
downloads them (`python -m datasets.prepare --list`). Importing this package makes `import dassl` work.
"""

import importlib
import pkgutil
from typing import Any

from promptbias.dassl_host import provide_dassl

_SHARED = {
    "archives",
    "coop_pickle",
    "drawing",
    "embedded",
    "embedded_sources",
    "fetches",
    "image_files",
    "imagenet_sources",
    "masks",
    "prepare",
    "reader",
    "sources",
    "split_files",
    "splits",
}

provide_dassl()


def register_all() -> None:
    """Import every dataset in this folder, which registers it in Dassl's DATASET_REGISTRY under its name."""
    for module in pkgutil.iter_modules(__path__):
        if module.name not in _SHARED:
            importlib.import_module(f"{__name__}.{module.name}")


def __getattr__(name: str) -> Any:
    raise AttributeError(
        f"{__name__} of promptbias, in {__path__[0]}, has no {name}: where Hugging Face's package `datasets` is meant, "
        "start from another folder than this checkout"
    )
