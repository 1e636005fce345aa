"""`import promptbias.plugin`: our trainers in any checkout of the CoOp family, wherever the line stands in `train.py`.

Makes `import dassl` work, registers our trainers and their config nodes with it, lets `cfg.merge_from_file` read our
YAML files, makes the trainers importable as `trainers.ivlp`, `trainers.bias_tuning`, ... beside a checkout's own, shows
our errors as one sentence, and touches nothing else.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType, TracebackType
from typing import Any

from promptbias.dassl_host import provide_dassl
from promptbias.utils.errors import UserError
from promptbias.utils.paths import COMPAT


def register() -> None:
    """Register our trainers; what is there already, or comes later, stays as it is.

    Raises:
        UserError: a Dassl that does not work here was imported before.
    """
    if importlib.util.find_spec("dassl") is None:
        print(f"no Dassl is installed: using the one in {COMPAT}", file=sys.stderr)
    provide_dassl()
    importlib.import_module("promptbias.trainers").discover()
    from promptbias.engine.host_config import adopt

    for cfg in configs_of_callers():
        adopt(cfg)
    sys.meta_path.append(OurTrainers())


class OurTrainers(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `trainers.<module>` in promptbias where the checkout's own `trainers` has no such module."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        package, _, module = name.partition(".")
        if package == "trainers" and f"promptbias.trainers.{module}" in sys.modules:
            return importlib.util.spec_from_loader(name, self)
        return None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = sys.modules[f"promptbias.{module.__name__}"]


def configs_of_callers() -> Iterator[Any]:
    """Dassl configs that were made before this module was imported: variables of the functions that led here."""
    from yacs.config import CfgNode

    frame = sys._getframe()
    while frame := frame.f_back:  # type: ignore[assignment]
        for value in [*frame.f_locals.values(), *frame.f_globals.values()]:
            if isinstance(value, CfgNode) and {"TRAINER", "DATASET", "OPTIM"} <= set(value):
                yield value


def show_user_errors_as_one_line() -> None:
    """Let an uncaught UserError end a `train.py` with its sentence in place of a traceback."""
    otherwise = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
        else:
            otherwise(kind, error, traceback)

    sys.excepthook = show


show_user_errors_as_one_line()
register()
