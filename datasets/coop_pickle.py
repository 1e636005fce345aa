"""CoOp's own few-shot caches: pickled lists of Dassl's Datum, read without executing code from the pickle."""

import os
import pickle
import textwrap
from collections.abc import Sequence
from typing import Any

from promptbias.utils.errors import UserError
from promptbias.utils.files import regular_file

SMALL = 16 * 2**20  # bytes; a few-shot cache has at most two, and ImageNet's preprocessed.pkl over a hundred


def _unpickle(path: str) -> Any:
    class Datum:
        """Replaces dassl.data.datasets.base_dataset.Datum; unpickling sets attributes, of the class too if asked to."""

    def find_class(self: Any, module: str, name: str) -> type:
        if module.split(".")[0] == "dassl" and name == "Datum":
            return Datum
        raise pickle.UnpicklingError(f"it contains {module}.{name}, and only dassl's Datum is allowed")

    # The unpickler in C makes room for as many objects as the file announces, gigabytes for a file of nine bytes. The
    # one in Python does not, but is ten times as slow.
    unpickler = pickle._Unpickler if os.path.getsize(path) <= SMALL else pickle.Unpickler
    with open(path, "rb") as file:
        return type("Unpickler", (unpickler,), {"find_class": find_class})(file).load()


def read_pickle(path: str, needed: Sequence[str] = ()) -> dict[str, list[tuple[str, int, str]]]:
    """Read `{"train": [Datum, ...], ...}` as lists of (absolute path, label, class name).

    Raises:
        UserError: the file is damaged, lacks a `needed` set, or contains anything but Datum and plain containers; or is
            no regular file.
    """
    regular_file(path)
    try:
        sets = _unpickle(path)
        for key in needed:
            if key not in sets:
                raise ValueError(f'it has no "{key}"')
        return {str(key): [_plain(datum) for datum in data] for key, data in sets.items()}
    except Exception as error:  # a damaged pickle can raise nearly anything
        reason = textwrap.shorten(str(error) or type(error).__name__, 200)
        raise UserError(
            f"{path} is not a few-shot cache of CoOp ({reason}); delete it to have the images drawn again"
        ) from error


def _plain(datum: Any) -> tuple[str, int, str]:
    path, label, name = datum._impath, datum._label, datum._classname
    if not (isinstance(path, str) and type(label) is int and isinstance(name, str)):
        raise TypeError("a Datum in it has no path, label and class name")
    return path, label, name
