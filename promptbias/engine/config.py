"""A run's config: YAML files with `_BASE_` (`yaml_files`), flags and KEY VALUE pairs merged into Dassl's defaults."""

import argparse
import glob
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from yacs.config import CfgNode

from promptbias.utils.errors import UserError, nearest
from promptbias.utils.files import regular_file
from promptbias.utils.paths import HOME
from promptbias.utils.yaml_files import read_yaml

BACKBONE_INPUT = ["SIZE", "PIXEL_MEAN", "PIXEL_STD", "INTERPOLATION"]  # keys of INPUT that belong to a backbone
LEFT_OUT = ()  # INPUT.SIZE as long as nothing has stated it
YACS_ERRORS = (KeyError, ValueError, TypeError, AssertionError)


def flatten(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    """A config tree as {"A.B.C": value}."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {prefix + key: value})
    return flat


def find_file(path: str) -> str:
    """`path` as it is, or, where nothing is there, the file of that name that comes with the package.

    So `configs/trainers/BiasTuning/tiny.yaml` works from any folder.

    Raises:
        UserError: there is no such file in either place.
    """
    ours = os.path.join(HOME, path)
    for candidate in (path, ours):
        if os.path.exists(candidate):
            return regular_file(candidate)
    folders = [os.path.dirname(candidate) or "." for candidate in (path, ours)]
    folder = next((folder for folder in folders if os.path.isdir(folder)), folders[0])
    names = [os.path.basename(p) for p in glob.glob(os.path.join(glob.escape(folder), "*.yaml"))]
    hint = nearest(os.path.basename(path), names) if names else f"{folder} holds no YAML file"
    raise UserError(f"there is no config file {path}: {hint}")


def merge_file(cfg: CfgNode, path: str) -> None:
    """Merge a YAML file and its bases into `cfg`.

    Raises:
        UserError: no such file, not YAML, a key that no config has, or a value of another type.
    """
    found = find_file(path)
    try:
        cfg.merge_from_other_cfg(CfgNode(fit_mapping(cfg, read_yaml(found))))
    except YACS_ERRORS as error:
        raise UserError(f"{path}: {explain(cfg, error)}") from error
    except UserError as error:
        raise error if path in str(error) else UserError(f"{path}: {error}") from error


def merge_options(cfg: CfgNode, options: Sequence[str]) -> None:
    """Merge KEY VALUE pairs into `cfg`.

    Raises:
        UserError: a key that no config has, a value of another type, or a key without value.
    """
    check_pairs(options)
    known = flatten(cfg)
    fitted: list[Any] = []
    for key, value in zip(options[::2], options[1::2]):
        if key not in known:
            raise UserError(unknown_key(key, known))
        fitted += [key, fit(key, known[key], value)]
    try:
        cfg.merge_from_list(fitted)
    except YACS_ERRORS as error:
        raise UserError(explain(cfg, error)) from error


def fit_mapping(node: CfgNode, given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The content of a YAML file with every value as `fit` has it; a node with nothing below it says nothing."""
    fitted: dict[str, Any] = {}
    for key, value in given.items():
        due = node.get(key)
        if isinstance(due, CfgNode) and isinstance(value, dict):
            fitted[key] = fit_mapping(due, value, f"{prefix}{key}.")
        elif not isinstance(due, CfgNode):
            fitted[key] = fit(prefix + key, due, value)
        elif value is not None:
            fitted[key] = value
    return fitted


def fit(key: str, due: Any, given: Any) -> Any:
    """A value in the type of the one that it replaces, where it is clear what was meant; otherwise as it is.

    >>> fit("INPUT.SIZE", (224, 224), "64"), fit("OPTIM.LR", 0.1, 1), fit("USE_CUDA", True, "false")
    ((64, 64), 1.0, False)

    Args:
        given: text of the command line, which may be a Python literal, or what a YAML holds.

    Raises:
        UserError: there is no value, or its text is not one.
    """
    try:
        value = CfgNode._decode_cfg_value(given)
    except (MemoryError, RecursionError) as error:  # of Python's own parser
        raise UserError(f"the value of {key} is nested too deeply") from error
    if isinstance(due, str):
        if value is None:
            return ""
        if isinstance(value, str) or not isinstance(given, (str, int, float)) or isinstance(given, bool):
            return given
        return repr(str(given))  # text such as "{}" or "2024", which yacs would take for a literal
    if value is None and due is not None:
        raise UserError(f"{key} has no value{such_as(key, due)}")
    if type(value) is int and key == "INPUT.SIZE":
        return (value, value)
    if type(value) is int and isinstance(due, float) and abs(value) < 2**53:
        return float(value)
    if isinstance(due, bool) and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return given


def such_as(key: str, due: Any) -> str:
    """An example for a key: the value that it has, unless that says little."""
    due = (224, 224) if key == "INPUT.SIZE" and due == LEFT_OUT else due
    return f" (such as {due!r})" if due not in (None, "", (), []) else ""


def check_pairs(options: Sequence[str]) -> None:
    """Refuse options that do not come in pairs.

    Raises:
        UserError: a key without value.
    """
    if len(options) % 2:
        raise UserError(f"options come as KEY VALUE pairs, but there are {len(options)} arguments: {' '.join(options)}")


def explain(cfg: CfgNode, error: Exception) -> str:
    """yacs' complaint as a sentence, with the nearest key where one is unknown."""
    message = str(error.args[0] if error.args else error)
    types = re.match(r"Type mismatch \(<class '([\w.]+)'> vs. <class '([\w.]+)'>\)", message)
    if types:  # the values, of which a whole node may be one, come after it
        key = message.split(": ")[-1]
        return "{} must be of type {}, not {}{}".format(key, *types.groups(), such_as(key, flatten(cfg).get(key)))
    if not message.startswith("Non-existent"):
        return message.splitlines()[0]
    return unknown_key(message.split(": ")[-1], flatten(cfg))


def unknown_key(key: str, known: Iterable[str]) -> str:
    """What to say of a key that no config has: the nearest one, or those of the same node, or the nodes."""
    node = key.rpartition(".")[0]
    siblings = [name for name in known if name.rpartition(".")[0] == node] if node else []
    nodes = sorted({name.split(".")[0] for name in known})
    return f"there is no config key {key}: {nearest(key, known, siblings or nodes)}"


def follow_backbone(cfg: CfgNode, files_name: str, given: Iterable[str]) -> None:
    """Let the images be those that the backbone was trained on.

    INPUT.SIZE where nothing states it; and all of BACKBONE_INPUT where the backbone is another one than the YAML files
    name, since what they say there is for theirs. What the KEY VALUE pairs state stays.

    Args:
        files_name: MODEL.BACKBONE.NAME according to the YAML files.
        given: the keys of the KEY VALUE pairs.

    Raises:
        UserError: there is no such backbone.
    """
    name = cfg.MODEL.BACKBONE.NAME
    follows = BACKBONE_INPUT if files_name not in ("", name) else ["SIZE"] if cfg.INPUT.SIZE == LEFT_OUT else []
    keys = [key for key in follows if f"INPUT.{key}" not in given]
    if not (name and keys):
        return
    from promptbias.model.backbones import find

    backbone = find(name)
    mean, std, interpolation = backbone.preprocessing
    stated = {"PIXEL_MEAN": list(mean), "PIXEL_STD": list(std), "INTERPOLATION": interpolation}
    if "SIZE" in keys:  # only then, since it may have to read the weights
        stated["SIZE"] = (backbone.input_size(),) * 2
    cfg.INPUT.update({key: stated[key] for key in keys})


def setup_cfg(args: argparse.Namespace) -> CfgNode:
    """The frozen config of a run: defaults, then the dataset's YAML, the method's, the flags, and KEY VALUE pairs.

    Args:
        args: as `promptbias.engine.train.parse_args` returns them. Trainers and datasets must be registered, since
            their config nodes are part of the defaults.

    Raises:
        UserError: as `merge_file` and `merge_options`.
    """
    from dassl.config import get_cfg_default

    cfg = get_cfg_default()
    default_size, cfg.INPUT.SIZE = cfg.INPUT.SIZE, LEFT_OUT
    for path in (args.dataset_config_file, args.config_file):
        if path:
            merge_file(cfg, path)
    files_name = cfg.MODEL.BACKBONE.NAME
    for node, key, value in (
        (cfg.DATASET, "ROOT", args.root),
        (cfg, "OUTPUT_DIR", args.output_dir),
        (cfg, "RESUME", args.resume),
        (cfg, "SEED", args.seed),
        (cfg.DATASET, "SOURCE_DOMAINS", args.source_domains),
        (cfg.DATASET, "TARGET_DOMAINS", args.target_domains),
        (cfg.INPUT, "TRANSFORMS", args.transforms),
        (cfg.TRAINER, "NAME", args.trainer),
        (cfg.MODEL.BACKBONE, "NAME", args.backbone),
        (cfg.MODEL.HEAD, "NAME", args.head),
    ):
        if value not in (None, ""):
            node[key] = value
    merge_options(cfg, args.opts)
    follow_backbone(cfg, files_name, args.opts[::2])
    if cfg.INPUT.SIZE == LEFT_OUT:
        cfg.INPUT.SIZE = default_size
    cfg.freeze()
    return cfg
