"""`import promptbias.plugin`: our trainers in any checkout of the CoOp family.

Makes them importable as `trainers.ivlp`, `trainers.bias_tuning`, ... beside a checkout's own, registers them and their
config nodes with Dassl, lets `cfg.merge_from_file` resolve the `_BASE_` of our YAML files, and touches nothing else.
"""

import importlib
import sys

from promptbias.dassl_host import provide_dassl


def register() -> None:
    """Register our trainers, whoever's `trainers` package it is; what is there already stays as it is."""
    provide_dassl()
    from promptbias.engine.config import enable_base_files

    ours = importlib.import_module("promptbias.trainers")
    ours.discover()
    enable_base_files(importlib.import_module("dassl.config").cfg_default)
    try:
        theirs = importlib.import_module("trainers")
    except ImportError:  # a checkout that keeps its trainers elsewhere
        return
    for name in list(sys.modules):
        if name.startswith("promptbias.trainers."):
            short = name.rpartition(".")[2]
            if f"trainers.{short}" not in sys.modules and not hasattr(theirs, short):
                sys.modules[f"trainers.{short}"] = sys.modules[name]
                setattr(theirs, short, sys.modules[name])


register()
