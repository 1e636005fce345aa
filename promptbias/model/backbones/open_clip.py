"""open_clip's CLIPs: by model name and tag, or by model name and checkpoint."""

import functools
import re
from typing import Any, Literal

import msgspec

from promptbias.model.images import OPENAIS, Preprocessing
from promptbias.utils.errors import UserError, nearest
from promptbias.utils.startup import complete_deferred_imports

from .backbone import GELU, QUICK_GELU, Backbone, Branch, State, VisionSize
from .hub import Find, on_hub
from .openai import OWN_KEYS
from .weights import read_weights, refuse_other_layouts

PREFIX = "open_clip:"
CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


class Vision(msgspec.Struct, forbid_unknown_fields=True):
    """open_clip's description of a ViT of OpenAI's architecture, with its defaults."""

    image_size: int = 224
    layers: int = 12
    width: int = 768
    patch_size: int = 16
    head_width: int = 64
    mlp_ratio: float = 4.0


class Text(msgspec.Struct, forbid_unknown_fields=True):
    """open_clip's description of a text branch of OpenAI's architecture, with its defaults."""

    context_length: int = 77
    vocab_size: int = 49408
    width: int = 512
    heads: int = 8
    layers: int = 12
    mlp_ratio: float = 4.0


class Model(msgspec.Struct, forbid_unknown_fields=True):
    """A whole CLIP in open_clip's words; whatever else it can say makes another architecture."""

    embed_dim: int
    vision_cfg: Vision
    text_cfg: Text
    quick_gelu: bool = False


class Images(msgspec.Struct):
    """How images are prepared, in open_clip's words; what else it says (`resize_mode`) is not followed."""

    mean: tuple[float, float, float] = OPENAIS.mean
    std: tuple[float, float, float] = OPENAIS.std
    interpolation: Literal["bicubic", "bilinear", "nearest"] = "bicubic"


def by_name(name: str) -> Backbone:
    """`name` is open_clip:<model>/<tag> or open_clip:<model>@<checkpoint>.

    Raises:
        UserError: open_clip is not installed, has no such model or tag, or the model has another architecture.
    """
    complete_deferred_imports()
    try:
        import open_clip
    except ImportError as error:
        raise UserError(f"{name} needs open_clip ({error}); pip install 'promptbias[export]'") from error
    words = re.fullmatch(r"([^/@]+)(?:/(.+)|@(.+))", name.removeprefix(PREFIX))
    if not words:
        raise UserError(f'"{name}" must be {PREFIX}<model>/<tag> or {PREFIX}<model>@<file>')
    model, tag, path = words.groups()
    config = open_clip.get_model_config(model)
    if config is None:
        raise UserError(f'open_clip has no model "{model}": {nearest(model, open_clip.list_models())}')
    if path:
        return from_config(name, config, {}, functools.partial(_read, path))
    tags = open_clip.list_pretrained_tags_by_model(model)
    if tag not in tags:
        raise UserError(f'open_clip has no weights "{tag}" for {model}: {nearest(tag, tags)}')
    about = open_clip.get_pretrained_cfg(model, tag)
    if bool(about.get("quick_gelu")) != bool(config.get("quick_gelu")):
        was = "QuickGELU" if about.get("quick_gelu") else "GELU"
        raise UserError(f"open_clip says that {tag} was trained with {was}, but not {model}; give {_other(model, tag)}")
    repo = about["hf_hub"].rstrip("/")
    return from_config(name, config, about, functools.partial(_from_hub, repo))


def _other(model: str, tag: str) -> str:
    suffix = "-quickgelu"
    return f"{PREFIX}{model.removesuffix(suffix) if model.endswith(suffix) else model + suffix}/{tag}"


def _from_hub(repo: str) -> State:
    return in_files(on_hub(repo), repo)


def in_files(find: Find, name: str) -> State:
    """The weights among the files of a model in open_clip's format.

    Raises:
        UserError: there are none, or they cannot be read.
    """
    path = find(*WEIGHTS)
    if path is None:
        raise UserError(f"{name} holds neither {' nor '.join(WEIGHTS)}")
    return _read(path)


def _read(path: str) -> State:
    state = read_weights(path)
    refuse_other_layouts(state, path)
    state["logit_scale"] = state["logit_scale"].reshape(())  # some have one of shape (1,)
    return {key: value for key, value in state.items() if key not in OWN_KEYS}


def from_config(name: str, config: Any, images: dict[str, Any], weights: Any) -> Backbone:
    """A backbone by open_clip's model and preprocessing configs.

    Raises:
        UserError: another architecture than OpenAI's ViT CLIP.
    """
    try:
        model, prepared = msgspec.convert(config, Model), msgspec.convert(images, Images)
    except msgspec.ValidationError as error:
        raise UserError(
            f"{name} is not of OpenAI's ViT architecture, the only one that is supported: {str(error).lower()}"
        ) from error
    vision, text = model.vision_cfg, model.text_cfg
    activation = QUICK_GELU if model.quick_gelu else GELU
    return Backbone(
        name,
        weights,
        vision=Branch(vision.width // vision.head_width, activation),
        text=Branch(text.heads, activation),
        image_size=vision.image_size,
        vision_size=VisionSize(vision.width, vision.layers, vision.patch_size),
        preprocessing=Preprocessing(prepared.mean, prepared.std, prepared.interpolation),
    )
