"""Entering methods into Dassl's registry and default configuration."""

import filecmp
import inspect
from typing import TYPE_CHECKING, Any

from dassl.config import cfg_default
from dassl.engine import TRAINER_REGISTRY

from promptbias.model.images import BACKGROUND

from .host_config import add_options

if TYPE_CHECKING:
    from .trainer import TuningTrainer

READING = {"EXIF": False, "BACKGROUND": BACKGROUND}  # keys of INPUT that upstream's Dassl has not
PREFIX = "PromptBias"  # of a trainer's name where its own is taken
OURS = "promptbias.trainers."  # what the modules of our own trainers are called


class YieldingRegistry(type(TRAINER_REGISTRY)):  # type: ignore[misc]
    """Dassl's registry of trainers; ours give way to a checkout's own of the same name, whichever comes first."""

    def register(self, obj: Any = None, force: bool = False) -> Any:
        """As Dassl."""
        if obj is None:
            return lambda decorated: self.register(decorated, force)
        holder = self._obj_map.get(obj.__name__)
        if holder is None or not gives_way(holder, obj):
            super().register(obj, force)
        else:
            del self._obj_map[obj.__name__]
            super().register(obj, force)
            enter(holder)
        return obj


TRAINER_REGISTRY.__class__ = YieldingRegistry


def register(trainer: type) -> type:
    """Enter a trainer and its method's config node.

    Where its name is taken it goes by the first free one, and a line says so. A method that is imported twice (as
    `trainers.ivlp` and `promptbias.trainers.ivlp`, also where one is a copy of the other) is entered once.
    """
    add_options(cfg_default, trainer.custom_clip.config)  # type: ignore[attr-defined]
    for key, value in READING.items():
        cfg_default.INPUT.setdefault(key, value)
    same_name = [name for name in TRAINER_REGISTRY.registered_names() if name.endswith(trainer.__name__)]
    if not any(have_same_source(trainer, TRAINER_REGISTRY.get(name)) for name in same_name):
        enter(trainer)
    return trainer


def enter(trainer: type) -> None:
    """Enter a trainer under its name, or, where that is taken, under the first free one."""
    name, known = trainer.__name__, TRAINER_REGISTRY.registered_names()
    taken = [other for other in known if not gives_way(TRAINER_REGISTRY.get(other), trainer)]
    candidates = (name, *(f"{PREFIX}{name}{i}" for i in ("", *range(2, 100))))
    trainer.__name__ = next(candidate for candidate in candidates if candidate not in taken)
    if trainer.__name__ != name:
        print(f'a trainer "{name}" is registered already: ours is "{trainer.__name__}"')
    TRAINER_REGISTRY.register(trainer)


def gives_way(holder: type, newcomer: type) -> bool:
    """Whether a registered trainer leaves its name to another: ours to any that is not."""
    return holder.__module__.startswith(OURS) and not newcomer.__module__.startswith(OURS)


def have_same_source(a: type, b: type) -> bool:
    """Whether two classes are defined in the same file, or in files of the same content."""
    try:
        return filecmp.cmp(inspect.getfile(a), inspect.getfile(b), shallow=False)
    except (OSError, TypeError):  # a class without a file, as in a notebook
        return False


def registered_as(name: str) -> str:
    """The name here of the trainer that some checkout calls `name`."""
    known = TRAINER_REGISTRY.registered_names()
    return next((n for n in (name, name.removeprefix(PREFIX), PREFIX + name) if n in known), name)


def tuning_trainers() -> dict[str, type["TuningTrainer"]]:
    """The registered trainers of this project's kind, by name."""
    trainers = {name: TRAINER_REGISTRY.get(name) for name in TRAINER_REGISTRY.registered_names()}
    return {name: trainer for name, trainer in trainers.items() if hasattr(trainer, "custom_clip")}
