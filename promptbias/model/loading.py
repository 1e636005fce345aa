"""Where a CLIP comes from: OpenAI's weights, a file, or the tiny one that this project brings along."""

import importlib
import inspect
import os
import warnings

import torch
import torch.nn as nn
from torch import Tensor

from promptbias.utils.download import download
from promptbias.utils.errors import UserError, nearest
from promptbias.utils.files import checksum, is_torchscript

# In any CLIP.
NEEDED = ("positional_embedding", "text_projection", "logit_scale", "token_embedding.weight", "ln_final.weight")
CACHE = os.path.expanduser("~/.cache/clip")  # where OpenAI's own loader keeps them
TINY = "tiny"


def import_clip():
    """The `clip` module: OpenAI's package, or the `clip/` folder of a CoOp checkout.

    Raises:
        UserError: there is none, or it cannot be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # clip-anytorch imports pkg_resources, which warns at length
            from clip import clip, model
        return clip, model
    except ImportError as error:
        raise UserError(
            f"CLIP cannot be imported ({error}); pip install clip-anytorch 'setuptools<81', "
            "or run inside a CoOp checkout, which has it in its folder clip/"
        ) from error


def load_clip(name: str) -> nn.Module:
    """A stock CLIP in float32 on the CPU, in eval mode.

    Args:
        name: "tiny", one of OpenAI's names such as "ViT-B/16", or the path of a weights file.

    Raises:
        UserError: unknown name, a ResNet, a file that holds no CLIP, weights that cannot be had, or a `clip` whose
            `build_model` fails.
    """
    clip, _ = import_clip()
    if name == TINY:
        state = tiny_state()
    elif name in clip._MODELS:
        if name.startswith("RN"):
            raise UserError(f"{name} is a ResNet, but prompts and block biases need a ViT, such as ViT-B/16")
        url = clip._MODELS[name]
        sha256 = url.split("/")[-2]
        path = os.path.join(CACHE, os.path.basename(url))
        try:
            download(url, path, sha256=sha256)
        except UserError as error:
            raise UserError(f"{error}; `digits` with the tiny CLIP needs no weights from anywhere") from error
        state = read_weights(path)
    elif os.path.isfile(name):
        state = read_weights(name)
        missing = [key for key in NEEDED if key not in state]
        if missing:
            raise UserError(
                f"{name} does not hold a CLIP: it has no {missing[0]}; give one of OpenAI's names or weights files"
            )
    else:
        hint = nearest(name, [TINY, *clip._MODELS])
        raise UserError(f'there is no CLIP "{name}": {hint} Or give the path of a weights file.')
    return build(state)


def tiny_state() -> dict[str, Tensor]:
    """The weights of the small CLIP that comes with this project, under OpenAI's names."""
    return importlib.import_module("promptbias.tiny_clip").state_dict()


def build(state: dict[str, Tensor]) -> nn.Module:
    """Build the `clip` module's CLIP from OpenAI's state dict."""
    _, model = import_clip()
    # MaPLe's and PromptSRC's copies want to know what to build into the model: nothing.
    details = {"trainer": "CoOp", "vision_depth": 0, "language_depth": 0, "vision_ctx": 0, "language_ctx": 0}
    wants_details = "design_details" in inspect.signature(model.build_model).parameters
    try:
        built = model.build_model(dict(state), *([details] if wants_details else []))
    except Exception as error:  # another project's code, which fails in its own ways
        raise UserError(
            f"the CLIP code in {os.path.dirname(model.__file__)} cannot build this model "
            f"({(str(error).strip() or type(error).__name__).splitlines()[0]})"
        ) from error
    return built.float().eval()


def read_weights(path: str) -> dict[str, Tensor]:
    """OpenAI's state dict from safetensors, a torch file, or one of OpenAI's own archives.

    Those archives hold code. They are opened only if the checksum is that of OpenAI's file.

    Raises:
        UserError: damaged, or an archive that is not OpenAI's, or no tensors by their names.
    """
    clip, _ = import_clip()
    try:
        if path.endswith(".safetensors"):
            from safetensors.torch import load_file

            return load_file(path)
        digest = checksum(path)
        if any(digest in url for url in clip._MODELS.values()):
            state = torch.jit.load(path, map_location="cpu").state_dict()
        elif is_torchscript(path):
            raise ValueError("an archive with code")
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch and safetensors have no common exception for a bad file
        raise UserError(
            f"{path} is not a CLIP weights file that can be read safely ({type(error).__name__}); it must be "
            "OpenAI's own file, safetensors, or a plain state dict"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(state, dict):
        raise UserError(f"{path} is not a CLIP weights file: it does not hold tensors by their names")
    return state
