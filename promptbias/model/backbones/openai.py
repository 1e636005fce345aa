"""OpenAI's CLIPs, by name and from files in their layout, and the small ones of the same architecture."""

import functools
import importlib
import os
import re

from promptbias.model.clip_module import import_clip
from promptbias.utils.download import download
from promptbias.utils.errors import UserError

from .backbone import Backbone, Branch, State, VisionSize
from .weights import read_weights, refuse_other_layouts

PREFIX = "openai:"
EMBEDDED = ("tiny", "tiny_scenes")  # the small CLIPs in promptbias.tiny_clip
# Scalars in OpenAI's archives. `clip.load` takes and drops them, and nothing but OpenAI's format has them.
OWN_KEYS = ("input_resolution", "context_length", "vocab_size")
WIDEST = 1024  # of OpenAI's ViTs


def cache_folder() -> str:
    """Where OpenAI's weights are kept: $CLIP_CACHE, or where OpenAI's own loader keeps them."""
    return os.path.expanduser(os.environ.get("CLIP_CACHE") or "~/.cache/clip")


def embedded(name: str) -> Backbone:
    """One of the small CLIPs that come with this project, EMBEDDED."""
    return embedded_file(name, importlib.import_module("promptbias.tiny_clip").FILES[name])


def embedded_file(name: str, path: str) -> Backbone:
    """Weights as `promptbias.tiny_clip` writes them, which say their heads."""
    ours = importlib.import_module("promptbias.tiny_clip")
    architecture = ours.metadata(path)["architecture"]
    return Backbone(
        name,
        functools.partial(ours.state_dict, path),
        Branch(architecture.get("vision_heads")),
        Branch(architecture["transformer_heads"]),
        image_size=architecture["image_resolution"],
    )


def by_name(name: str) -> Backbone:
    """One of `clip.available_models()`.

    Raises:
        UserError: it is a ResNet.
    """
    if name.startswith("RN"):
        raise UserError(f"{name} is a ResNet, but prompts and block biases need a ViT, such as ViT-B/16")
    pixels = re.search(r"@(\d+)px", name)
    return Backbone(name, functools.partial(_downloaded, name), image_size=int(pixels[1]) if pixels else 224)


def _downloaded(name: str) -> State:
    clip, _ = import_clip()
    url = clip._MODELS[name]
    path = os.path.join(cache_folder(), os.path.basename(url))
    try:
        download(url, path, sha256=url.split("/")[-2])
    except UserError as error:
        raise UserError(
            f"{error} (the environment variable CLIP_CACHE names another folder); "
            "`digits` with the tiny CLIP needs no weights from anywhere"
        ) from error
    return _without_own_keys(read_weights(path))


def from_file(path: str, stated: bool = False) -> Backbone:
    """Weights in OpenAI's layout.

    open_clip has the same layout, but other activations and heads, and nothing in the weights tells them apart. So
    either the file must have OpenAI's scalars, or whoever gives it states that it is OpenAI's CLIP, tuned or not.

    Args:
        stated: whether it is.
    """
    return Backbone(path, functools.partial(_from_file, path, stated))


def _from_file(path: str, stated: bool) -> State:
    state = read_weights(path)
    refuse_other_layouts(state, path)
    if not stated and not set(OWN_KEYS) <= set(state):
        raise UserError(
            f"{path} does not say whether it computes with QuickGELU and heads of 64, as OpenAI's CLIPs do: if it is "
            f"one of them, tuned or not, give {PREFIX}{path}; if it is open_clip's, open_clip:<model name>@{path}"
        )
    size = VisionSize.of(state)
    if size.width > WIDEST:
        raise UserError(
            f"{path} holds a ViT of {size}, which is none of OpenAI's, and does not say how many heads it has; "
            f"give open_clip:<model name>@{path}"
        )
    return _without_own_keys(state)


def _without_own_keys(state: State) -> State:
    return {key: value for key, value in state.items() if key not in OWN_KEYS}
