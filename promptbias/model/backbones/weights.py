"""Weights from files of other people: verified, without running what is in them, and told what they look like."""

import json
import os
import re
import stat
import warnings
from typing import Any

import torch
from torch import Tensor

from promptbias.model.clip_module import import_clip
from promptbias.utils.errors import UserError
from promptbias.utils.files import checksum, is_torchscript
from promptbias.utils.tensor_files import read_tensors

from .backbone import State

NEEDED = (
    "visual.conv1.weight",
    "visual.positional_embedding",
    "visual.proj",
    "visual.transformer.resblocks.0.mlp.c_fc.weight",
    "transformer.resblocks.0.mlp.c_fc.weight",
    "positional_embedding",
    "text_projection",
    "logit_scale",
    "token_embedding.weight",
    "ln_final.weight",
)
WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys below which training scripts put the weights
PREFIXES = re.compile(r"^(?:module\.|_orig_mod\.|model\.)+")  # of DataParallel, torch.compile and Lightning
NO_WEIGHTS = ("attn_mask", "visual.attn_mask")  # buffers that some versions wrote
# (pattern of a key, what such weights are, what to do): the first that fits is said.
LOOKS_LIKE = (
    (r"visual\.(layer1|attnpool)\.", "a CLIP with a ResNet", "prompts and block biases need a ViT, such as ViT-B/16"),
    (r"vision_model\.head\.|logit_bias", "a SigLIP", "only CLIPs of OpenAI's ViT architecture are supported"),
    (
        r"(text|vision)_model\.",
        "the state dict of a Hugging Face model, which does not say its heads and activation",
        "give the folder that holds it and its config.json, or hf:<name on the hub>",
    ),
    (
        r"visual\.(trunk|blocks|head)\.|text\.",
        "an open_clip model with towers that are not OpenAI's (SigLIP, EVA, CoCa, ConvNeXt or the like)",
        "only CLIPs of OpenAI's ViT architecture are supported",
    ),
    (
        r"(vision|text)\.\w|prompt_learner\.|image_encoder\.",
        "a checkpoint of a tuned model, without its CLIP",
        "give the CLIP, and load the checkpoint with promptbias.load or --model-dir",
    ),
)


def read_weights(path: str) -> State:
    """Tensors by their names from safetensors, a torch file or one of OpenAI's archives.

    Those archives hold code; they are opened only if the checksum is that of OpenAI's file. Other torch files are not
    left to `torch.load`, which ignores the checksums of a zip's members and, before 2.6, could be made to run code with
    `weights_only` too. A file of the hub's cache is compared with its name. Wrappers and prefixes of training scripts
    are taken off.

    Raises:
        UserError: no file, damaged, another archive with code, or no tensors by their names.
    """
    refuse_no_file(path)
    try:
        if path.endswith(".safetensors"):
            found: Any = _read_safetensors(path)
        elif is_torchscript(path):
            found = _read_openais_archive(path)
        else:
            found = read_tensors(path)
    except (MemoryError, UserError):
        raise
    except Exception as error:  # torch and safetensors have no common exception for a bad file
        raise UserError(
            f"{path} is damaged or not a CLIP weights file that can be read safely ({error}); get it again, or give "
            "OpenAI's own file, safetensors, or a plain state dict, torch.save(model.state_dict(), path)"
        ) from error
    return unwrap(found, path)


def refuse_no_file(path: str) -> None:
    """Refuse what is not a file with weights in it.

    Raises:
        UserError: nothing, a folder, a pipe or a device, an empty file, a pointer of git-LFS, or a file of the hub's
            cache that is not what was downloaded.
    """
    if not os.path.exists(path):
        raise UserError(f"there is no file {path}")
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UserError(f"{path} is not a regular file; give a weights file, or a folder with config.json")
    with open(path, "rb") as file:
        begin = file.read(64)
    if not begin:
        raise UserError(f"{path} is empty; get the file again")
    if begin.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a git-LFS pointer, not the weights; fetch them with `git lfs pull`")
    digest = os.path.basename(os.path.realpath(path))  # the hub's cache names large files by their checksums
    if re.fullmatch(r"[0-9a-f]{64}", digest) and checksum(path) != digest:
        raise UserError(f"{path} has a wrong checksum; remove {os.path.realpath(path)} to have it downloaded again")


def _read_safetensors(path: str) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged: {_safetensors_damage(path)}; get the file again") from error


def _safetensors_damage(path: str) -> str:
    """What is wrong with a safetensors file: 8 bytes with the length of the header, the header in JSON, the tensors."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        content = file.read()
    if content.count(b"\n") == content.count(b"\r\n") > 0:
        return "its line ends were converted (CRLF), as by git or FTP in text mode"
    length = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + length])
        needed = 8 + length + max(entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its header cannot be read"
    return f"it holds {size:,} bytes, but its header says {needed:,}"


def _read_openais_archive(path: str) -> State:
    clip, _ = import_clip()
    digest = checksum(path)
    if not any(digest in url for url in clip._MODELS.values()):
        raise UserError(
            f"{path} is an archive with code, and its checksum is not that of one of OpenAI's files, so it is not "
            "opened; if it is meant to be OpenAI's, it is damaged: delete it and download it again"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch call torch.jit deprecated
        return torch.jit.load(path, map_location="cpu").state_dict()


def unwrap(found: Any, path: str) -> State:
    """The weights in what a file holds, without wrappers, prefixes and buffers.

    Raises:
        UserError: no tensors by their names.
    """
    for wrapper in WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not (isinstance(found, dict) and found and all(isinstance(value, Tensor) for value in found.values())):
        raise UserError(f"{path} is not a CLIP weights file: it does not hold tensors by their names")
    state = {PREFIXES.sub("", str(key)): value for key, value in found.items()}
    return {key: value for key, value in state.items() if key not in NO_WEIGHTS}


def refuse_other_layouts(state: State, path: str) -> None:
    """Refuse weights that are not under the names of OpenAI's ViT CLIP.

    Raises:
        UserError: says what they look like, and what to give instead.
    """
    missing = [key for key in NEEDED if key not in state]
    if not missing:
        return
    for pattern, looks_like, way_out in LOOKS_LIKE:
        if any(re.match(pattern, key) for key in state):
            raise UserError(f"{path} looks like {looks_like}; {way_out}")
    raise UserError(
        f"{path} does not hold a CLIP: it has no {missing[0]}, but tensors such as {next(iter(state))}; "
        "give one of OpenAI's names or the weights of a whole CLIP"
    )
