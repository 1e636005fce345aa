"""Names and places: methods, datasets, backbones and their configurations, and where data and runs are.

A method is a folder of configs/trainers/, named after its trainer. A configuration is a YAML in it, whose name begins
with that of a backbone, and the backbones are the configurations of zero-shot CLIP. Files and folders whose names begin
with "_" only serve as bases of others.
"""

import argparse
import os
import re
from collections.abc import Mapping, Sequence

from promptbias.utils.errors import UserError, nearest
from promptbias.utils.paths import CHECKOUT, CONFIGS, IN_CHECKOUT

ZERO_SHOT = "ZeroshotCLIP"  # the baseline of every method; it trains nothing
BACKBONE = "vit_b16"  # of a dataset, unless a configuration names another
# Datasets that come with this project, in the order of docs/datasets.md; their backbone is the tiny CLIP.
SHIFTED = ("inverted_digits", "textured_digits", "noisy_digits", "rotated_digits")  # test sets for models of Digits
EMBEDDED = ("digits", "letters", "lower_letters", "cluttered_digits", *SHIFTED)
EMBEDDED_BACKBONE = "tiny"
# Keys that commands over many runs set, and the flags that say their values.
SET_BY_FLAGS = {
    "SEED": "--seeds",
    "OUTPUT_DIR": "--output",
    "RESUME": "--output",
    "DATASET.ROOT": "--root",
    "DATASET.NAME": "--datasets",
    "DATASET.NUM_SHOTS": "--shots",
    "TRAINER.NAME": "--methods",
}


def dataset_file(dataset: str) -> str:
    """The YAML of a dataset."""
    return os.path.join(CONFIGS, "datasets", dataset + ".yaml")


def method_file(method: str, cfg: str) -> str:
    """The YAML of a method's configuration."""
    return os.path.join(CONFIGS, "trainers", method, cfg + ".yaml")


def _yaml_names(*folder: str) -> list[str]:
    path = os.path.join(CONFIGS, *folder)
    files = os.listdir(path) if os.path.isdir(path) else []
    return sorted(name.removesuffix(".yaml") for name in files if name.endswith(".yaml") and name[0] != "_")


def methods() -> list[str]:
    """The trainers that have a configuration."""
    return [name for name in sorted(os.listdir(os.path.join(CONFIGS, "trainers"))) if configurations(name)]


def configurations(method: str) -> list[str]:
    """The names of a method's configurations; none for a name that begins with "_"."""
    return [] if method.startswith("_") else _yaml_names("trainers", method)


def find_method(name: str) -> str:
    """The method called `name`, in whatever case.

    Raises:
        UserError: there is none; names the nearest.
    """
    found = {method.lower(): method for method in methods()}
    if name.lower() not in found:
        raise UserError(f'there is no method "{name}" in configs/trainers/: {nearest(name, found.values())}')
    return found[name.lower()]


def check_dataset(name: str) -> None:
    """Refuse a dataset without a configuration.

    Raises:
        UserError: there is no such dataset; names all.
    """
    if name not in _yaml_names("datasets"):
        raise UserError(
            f'there is no dataset "{name}" in configs/datasets/; there are: {" ".join(_yaml_names("datasets"))}'
        )


def backbone_of(dataset: str, cfg: str = "") -> str:
    """The backbone that a configuration's name begins with, by default the one that fits the dataset."""
    named = [backbone for backbone in configurations(ZERO_SHOT) if cfg.startswith(backbone)]
    if named:
        return max(named, key=len)
    return EMBEDDED_BACKBONE if dataset in EMBEDDED else BACKBONE


def find_cfg(method: str, dataset: str, name: str) -> str:
    """The configuration called `name`; what names the dataset's backbone may be left out.

    Raises:
        UserError: there is none; names all.
    """
    known = configurations(method)
    for cfg in (name, f"{backbone_of(dataset)}_{name}"):
        if cfg in known:
            return cfg
    raise UserError(f'there is no configuration "{name}" in configs/trainers/{method}/; there are: {" ".join(known)}')


def default_cfg(method: str, dataset: str) -> str:
    """The configuration of a method where none is named: the one for the dataset's backbone; of several, the trainer's
    `default_config`.

    Raises:
        UserError: the method has none for this backbone.
    """
    backbone = backbone_of(dataset)
    fitting = [cfg for cfg in configurations(method) if cfg.startswith(backbone)]
    if not fitting:
        raise UserError(
            f"{method} has no configuration for {backbone}, the backbone of {dataset}; add "
            f"configs/trainers/{method}/{backbone}.yaml, or name one of: {' '.join(configurations(method))}"
        )
    if len(fitting) == 1:
        return fitting[0]
    from promptbias.engine.discovery import register_all  # imports torch, which is why it comes last

    register_all()
    from dassl.engine import TRAINER_REGISTRY

    chosen = getattr(TRAINER_REGISTRY.get(method), "default_config", "{}").format(backbone)
    return chosen if chosen in fitting else fitting[0]


def refuse_set_keys(pairs: Sequence[str], set_by: Mapping[str, str]) -> None:
    """Refuse KEY VALUE pairs of keys that a command sets: folders would hold other runs than their names say.

    Args:
        set_by: key -> what says its value.

    Raises:
        UserError: names the key, and what to give instead.
    """
    for key in pairs[::2]:
        if key in set_by:
            raise UserError(f"{key} is not for KEY VALUE pairs here: its value comes from {set_by[key]}")


def parse_seeds(text: str, name: str) -> tuple[int, ...]:
    """Seeds as words, no two the same.

    Args:
        name: of where they come from, for the message.

    Raises:
        UserError: something else than whole numbers below 2**32, or one twice.
    """
    seeds = text.split()
    if not (seeds and all(re.fullmatch("0|[1-9][0-9]{0,9}", seed) and int(seed) < 2**32 for seed in seeds)):
        raise UserError(
            f'{name} is "{text}", but must be whole numbers below 2**32 with spaces between, such as "1 2 3"'
        )
    twice = next((seed for i, seed in enumerate(seeds) if seed in seeds[:i]), None)
    if twice:
        raise UserError(f'{name} is "{text}", which names seed {twice} twice')
    return tuple(map(int, seeds))


class ParseSeeds(argparse.Action):
    """--seeds K ..., as `parse_seeds`."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        setattr(namespace, self.dest, list(parse_seeds(" ".join(values), str(option_string))))


def default_folder(variable: str, name: str) -> str:
    """The folder in an environment variable, else `name` in the checkout (without one: in the working folder)."""
    given = os.environ.get(variable)
    elsewhere = IN_CHECKOUT and os.path.realpath(os.getcwd()) != os.path.realpath(CHECKOUT)
    return given or (os.path.join(CHECKOUT, name) if elsewhere else name)


def add_output_argument(parser: argparse.ArgumentParser, more: str) -> None:
    """--output, of commands that look for runs where `experiment` puts them."""
    parser.add_argument(
        "--output",
        default=default_folder("OUTPUT", "output"),
        metavar="DIR",
        help=f"where the runs are; {more} (default: $OUTPUT, else output)",
    )
