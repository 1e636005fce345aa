"""CoOp's own few-shot caches: pickled lists of Dassl's Datum, read without executing code from the pickle."""

import pickle
from collections.abc import Sequence
from typing import Any

from promptbias.utils.errors import UserError


class _Datum:
    """Replaces dassl.data.datasets.base_dataset.Datum; unpickling sets its attributes."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if module.split(".")[0] == "dassl" and name == "Datum":
            return _Datum
        raise pickle.UnpicklingError(f"it contains {module}.{name}, and only dassl's Datum is allowed")


def read_pickle(path: str, needed: Sequence[str] = ()) -> dict[str, list[tuple[str, int, str]]]:
    """Read `{"train": [Datum, ...], ...}` as lists of (absolute path, label, class name).

    Raises:
        UserError: the file is damaged, lacks a `needed` set, or contains anything but Datum and plain containers.
    """
    try:
        with open(path, "rb") as file:
            sets = _Unpickler(file).load()
        for key in needed:
            if key not in sets:
                raise ValueError(f'it has no "{key}"')
        return {str(key): [_plain(datum) for datum in data] for key, data in sets.items()}
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(
            f"{path} is not a few-shot cache of CoOp ({error or type(error).__name__}); delete it to have the images "
            "drawn again"
        ) from error


def _plain(datum: Any) -> tuple[str, int, str]:
    path, label, name = datum._impath, datum._label, datum._classname
    if not (isinstance(path, str) and isinstance(label, int) and isinstance(name, str)):
        raise TypeError("a Datum in it has no path, label and class name")
    return path, label, name
