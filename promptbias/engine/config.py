"""A run's config: YAML files with `_BASE_`, flags and KEY VALUE pairs merged into Dassl's defaults.

A YAML may name a file, or a list of files, that it builds on; paths are relative to the YAML itself:

    _BASE_: "../_base_/vit_b16.yaml"

Bases are resolved before yacs sees the file. Of a list the later ones win, the file's own keys win over all of them,
and nested mappings are merged key by key. A YAML without `_BASE_` is read as it always was.
"""

import argparse
import glob
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import yaml
from yacs.config import CfgNode

from promptbias.utils.errors import UserError, nearest
from promptbias.utils.paths import HOME

BASE = "_BASE_"
BACKBONE_INPUT = ["SIZE", "PIXEL_MEAN", "PIXEL_STD", "INTERPOLATION"]  # keys of INPUT that belong to a backbone
LEFT_OUT = ()  # INPUT.SIZE as long as nothing has stated it
YACS_ERRORS = (KeyError, ValueError, TypeError, AssertionError)


def flatten(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    """A config tree as {"A.B.C": value}."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {prefix + key: value})
    return flat


def read_yaml(path: str) -> dict[str, Any]:
    """The mapping in a YAML file, with its bases merged in.

    Raises:
        OSError: `path` cannot be opened.
        UserError: a file is not YAML or does not hold keys and values, a base is missing or is not a path, or bases
            form a circle.
    """
    return _read_with_bases(path, ())


def _read_with_bases(path: str, parents: tuple[str, ...]) -> dict[str, Any]:
    """`read_yaml`; `parents` are the real paths of the files that led here through `_BASE_`, outermost first."""
    here = os.path.realpath(path)
    if here in parents:
        circle = " -> ".join(os.path.relpath(file, os.path.dirname(here)) for file in (*parents, here))
        raise UserError(f"{path} is its own base ({circle}); remove one of these {BASE} lines")
    own = _load_mapping(path)
    bases = own.pop(BASE, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not (isinstance(bases, list) and all(isinstance(base, str) and base for base in bases)):
        raise UserError(f"{path}: {BASE} is {bases!r}, but must be the path of a YAML file, or a list of paths")
    merged: dict[str, Any] = {}
    for base in bases:
        base_path = os.path.join(os.path.dirname(path), os.path.expanduser(base))
        if not os.path.isfile(base_path):
            raise UserError(f"{path}: {BASE} names {base}, but there is no file {os.path.normpath(base_path)}")
        merged = _merged(merged, _read_with_bases(base_path, (*parents, here)))
    return _merged(merged, own)


def _load_mapping(path: str) -> dict[str, Any]:
    """The mapping in one YAML file, as it stands there."""
    try:
        with open(path, encoding="utf-8") as file:
            found = yaml.safe_load(file)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path} is not YAML: {error.problem}{line}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML in UTF-8: {str(error).splitlines()[0]}") from error
    if not isinstance(found or {}, dict):
        raise UserError(f"{path} holds {type(found).__name__} data, but must hold keys and their values")
    return found or {}


def _merged(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `own` in it; mappings that both have are merged likewise."""
    merged = dict(base)
    for key, value in own.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def find_file(path: str) -> str:
    """`path` as it is, or, where nothing is there, the file of that name that comes with the package.

    So `configs/trainers/BiasTuning/tiny.yaml` works from any folder.

    Raises:
        UserError: there is no such file in either place.
    """
    ours = os.path.join(HOME, path)
    for candidate in (path, ours):
        if os.path.isfile(candidate):
            return candidate
    folders = [os.path.dirname(candidate) or "." for candidate in (path, ours)]
    folder = next((folder for folder in folders if os.path.isdir(folder)), folders[0])
    names = [os.path.basename(p) for p in glob.glob(os.path.join(glob.escape(folder), "*.yaml"))]
    hint = nearest(os.path.basename(path), names) if names else f"{folder} holds no YAML file"
    raise UserError(f"there is no config file {path}: {hint}")


def merge_file(cfg: CfgNode, path: str) -> None:
    """Merge a YAML file and its bases into `cfg`.

    Raises:
        UserError: no such file, not YAML, or a key that no config has.
    """
    found = find_file(path)
    try:
        cfg.merge_from_other_cfg(CfgNode(read_yaml(found)))
    except YACS_ERRORS as error:
        raise UserError(f"{path}: {explain(cfg, error)}") from error


def merge_options(cfg: CfgNode, options: Sequence[str]) -> None:
    """Merge KEY VALUE pairs into `cfg`.

    Raises:
        UserError: a key that no config has, a value of another type, or a key without value.
    """
    check_pairs(options)
    known = flatten(cfg)
    for key in options[::2]:
        if key not in known:
            raise UserError(unknown_key(key, known))
    try:
        cfg.merge_from_list(list(options))
    except YACS_ERRORS as error:
        raise UserError(explain(cfg, error)) from error


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
        return "{} must be of type {}, not {}".format(message.split(": ")[-1], *types.groups())
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
