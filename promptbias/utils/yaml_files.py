"""YAML files of keys and plain values, which may build on others by way of `_BASE_`.

A YAML may name a file, or a list of files, that it builds on; paths are relative to the YAML itself:

    _BASE_: "../_base_/vit_b16.yaml"

Of a list the later ones win, the file's own keys win over all of them, and nested mappings are merged key by key. A
YAML without `_BASE_` is read as it always was.
"""

import os
from typing import Any

import yaml

from promptbias.utils.errors import UserError
from promptbias.utils.files import regular_file

BASE = "_BASE_"

# No config comes near these. Without them a small file could fill the memory, or keep a parser busy for hours.
LARGEST = 200_000  # bytes
MOST_VALUES = 10_000  # aliases count as what they stand for
DEEPEST = 20

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"  # of the key <<
_PLAIN = {_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map")} | {_MERGE}


class Refused(Exception):
    """Something that YAML allows, and a config does not, at an event or a node."""

    def __init__(self, what: str, where: Any) -> None:
        super().__init__(what)
        self.line = where.start_mark.line + 1


class PlainLoader(yaml.SafeLoader):
    """Refuses, with the line, what a config cannot hold, before anything is made of it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.open_anchors: list[str | None] = []  # of the values that the next one lies in, outermost first
        self.count = 0
        self.counts: dict[int, int] = {}  # id of a node -> values in it, itself included

    def compose_node(self, parent, index):
        event, before = self.peek_event(), self.count
        is_alias = isinstance(event, yaml.AliasEvent)
        if is_alias and event.anchor in self.open_anchors:
            raise Refused(f"*{event.anchor} stands for something that it is itself a part of", event)
        if len(self.open_anchors) >= DEEPEST:
            raise Refused(f"values are nested more than {DEEPEST} deep", event)
        self.open_anchors.append(None if is_alias else event.anchor)
        node = super().compose_node(parent, index)
        self.open_anchors.pop()
        self.count += self.counts[id(node)] if is_alias else 1
        if self.count > MOST_VALUES:
            raise Refused(f"there are more than {MOST_VALUES:,} values", event)
        if not is_alias:
            self.counts[id(node)] = self.count - before
            check_tag(node)
        return node

    def compose_mapping_node(self, anchor):
        node = super().compose_mapping_node(anchor)
        keys = set()
        for key, _ in node.value:
            if key.tag not in (_TAG + "str", _MERGE):
                shown = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise Refused(f"{shown} stands where a key is due, but keys are text", key)
            if key.value in keys:
                raise Refused(f"the key {key.value} stands twice; keep one", key)
            keys.add(key.value)
        return node


def check_tag(node: yaml.Node) -> None:
    """Refuse dates, sets, binary data and objects.

    Raises:
        Refused: the value is one of these.
    """
    if node.tag == _TAG + "timestamp":
        raise Refused(f"{node.value} is a date; write it in quotes if it is text", node)
    if node.tag not in _PLAIN:
        name = node.tag.replace(_TAG, "!!")
        raise Refused(f"a value is marked {name}, but must be text, a number, true, false, a list or a mapping", node)


def read_yaml(path: str) -> dict[str, Any]:
    """The mapping in a YAML file, with its bases merged in.

    Raises:
        OSError: `path` cannot be opened.
        UserError: a file is not YAML or does not hold keys and plain values, a base is missing or is not a path, or
            bases form a circle.
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
        if not os.path.exists(base_path):
            raise UserError(f"{path}: {BASE} names {base}, but there is no file {os.path.normpath(base_path)}")
        merged = _merged(merged, _read_with_bases(base_path, (*parents, here)))
    return _merged(merged, own)


def _load_mapping(path: str) -> dict[str, Any]:
    """The mapping in one YAML file, as it stands there."""
    with open(regular_file(path), "rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise UserError(f"{path} has more than {LARGEST:,} bytes, which no config has; is it the file that you meant?")
    try:
        found = yaml.load(content.decode("utf-8-sig"), Loader=PlainLoader)  # which is a SafeLoader
    except Refused as error:
        raise UserError(f"{path}, line {error.line}: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path} is not YAML: {error.problem}{line}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML in UTF-8: {str(error).splitlines()[0]}") from error
    except (ValueError, LookupError) as error:  # such as `!!int many`, or a number of five thousand digits
        raise UserError(f"{path} holds a value that cannot be read ({error})") from error
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
