"""Finding methods and datasets: every module of their folders is imported, none is listed."""

import importlib


def register_all() -> None:
    """Enter all trainers and datasets of this project into Dassl's registries."""
    importlib.import_module("promptbias.trainers").discover()
    importlib.import_module("promptbias.datasets").register_all()
