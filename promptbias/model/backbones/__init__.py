"""Where a CLIP comes from: one file for each kind of source, each of which describes it as a `Backbone`."""

import os

from promptbias.model.clip_module import import_clip
from promptbias.utils.errors import UserError, nearest

from . import huggingface, open_clip, openai
from .backbone import Backbone
from .openai import EMBEDDED

OTHER_FORMS = ("a weights file", "a Hugging Face folder", "hf:<name on the hub>", "open_clip:<model>/<tag>")


def find(name: str) -> Backbone:
    """The backbone called `name` (docs/backbones.md).

    Raises:
        UserError: there is none, or its source does not describe a CLIP that is supported.
    """
    if name.startswith(open_clip.PREFIX):
        return open_clip.by_name(name)
    if name.startswith(huggingface.PREFIX):
        return huggingface.by_hub_name(name)
    stated = name.startswith(openai.PREFIX)
    bare = name.removeprefix(openai.PREFIX)
    clip, _ = import_clip()
    if bare in clip._MODELS:
        return openai.by_name(bare)
    if name in EMBEDDED:
        return openai.embedded(name)
    if os.path.isdir(bare) and not stated:
        return huggingface.by_folder(bare)
    if os.path.exists(bare):
        return openai.from_file(bare, stated)
    if stated:
        raise UserError(f"there is no file {bare}")
    vits = [*EMBEDDED, *(known for known in clip._MODELS if not known.startswith("RN"))]
    raise UserError(f'there is no CLIP "{name}": {nearest(name, vits, [*vits, *OTHER_FORMS])}')


def path_of(name: str) -> str | None:
    """The file or folder in the name of a backbone; None if it is called by a name that means the same everywhere."""
    model, at, path = name.partition("@")
    if name.startswith(open_clip.PREFIX):
        return path if at and "/" not in model else None
    bare = name.removeprefix(openai.PREFIX)
    return bare if os.path.exists(bare) else None
