"""Finding methods and datasets: every module of their folders is imported, none is listed."""

import importlib


def register_all() -> None:
    """Enter all datasets and trainers of this project, with their config nodes, into Dassl's registries.

    They stand above the engine, so they are found by name.
    """
    importlib.import_module("promptbias.datasets").register_all()
    importlib.import_module("promptbias.trainers").discover()
