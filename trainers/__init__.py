"""The tuning methods, one file each. `discover` imports them all, which registers them with Dassl."""

import importlib
import pkgutil


def discover() -> None:
    """Import every module of this folder, which enters its trainer and its config node."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
