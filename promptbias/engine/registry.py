"""Entering methods into Dassl's registry and default configuration."""

import inspect
import os
from typing import TYPE_CHECKING, Any

import yacs.config
from dassl.config import cfg_default
from dassl.engine import TRAINER_REGISTRY

from promptbias.model.images import BACKGROUND

if TYPE_CHECKING:
    from .trainer import TuningTrainer

READING = {"EXIF": False, "BACKGROUND": BACKGROUND}  # keys of INPUT that upstream's Dassl has not
PREFIX = "PromptBias"  # of a trainer's name where its own is taken


def add_config(name: str, **defaults: Any) -> None:
    """Add the node TRAINER.<name> to Dassl's default config, so that no `extend_cfg` must be edited."""
    node = cfg_default.TRAINER.get(name) or yacs.config.CfgNode()
    for key, value in defaults.items():
        node.setdefault(key, value)
    cfg_default.TRAINER[name] = node


def register(trainer: type) -> type:
    """Enter a trainer and its method's config node.

    Where its name is taken it goes by the first free one, and a line says so. A file that is imported under two names
    (as `trainers.ivlp` and `promptbias.trainers.ivlp`) is entered once.
    """
    config = trainer.custom_clip.config  # type: ignore[attr-defined]
    add_config(config.node, **config.options())
    for key, value in READING.items():
        cfg_default.INPUT.setdefault(key, value)
    known, name = TRAINER_REGISTRY.registered_names(), trainer.__name__
    file = source_of(trainer)
    if any(source_of(TRAINER_REGISTRY.get(other)) == file for other in known if other.endswith(name)):
        return trainer
    candidates = (name, *(f"{PREFIX}{name}{i}" for i in ("", *range(2, 100))))
    free = next(candidate for candidate in candidates if candidate not in known)
    if free != name:
        print(f'a trainer "{name}" is registered already: ours is "{free}"')
        trainer.__name__ = free
    TRAINER_REGISTRY.register(trainer)
    return trainer


def source_of(trainer: type) -> str | None:
    """The file that defines a class; None where it cannot be told."""
    try:
        return os.path.realpath(inspect.getfile(trainer))
    except (OSError, TypeError):
        return None


def registered_as(name: str) -> str:
    """The name here of the trainer that some checkout calls `name`."""
    known = TRAINER_REGISTRY.registered_names()
    return next((n for n in (name, name.removeprefix(PREFIX), PREFIX + name) if n in known), name)


def tuning_trainers() -> dict[str, type["TuningTrainer"]]:
    """The registered trainers of this project's kind, by name."""
    trainers = {name: TRAINER_REGISTRY.get(name) for name in TRAINER_REGISTRY.registered_names()}
    return {name: trainer for name, trainer in trainers.items() if hasattr(trainer, "custom_clip")}
