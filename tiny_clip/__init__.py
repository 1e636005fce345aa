"""Two small CLIPs of OpenAI's architecture, trained on rendered glyphs and scenes; README.md is their model card."""

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from promptbias.utils.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = os.path.dirname(os.path.abspath(__file__))
WEIGHTS, SCENES = (os.path.join(FOLDER, name) for name in ("tiny.safetensors", "tiny_scenes.safetensors"))
FILES = {"tiny": WEIGHTS, "tiny_scenes": SCENES}
SHA256 = {
    WEIGHTS: "787e0515bf6ee31c6a7ab6e1a2722bf2fcc0244676dfeccff1f900813eb0798a",
    SCENES: "147fcaba9a4cda99c8d93774f49c2df6d83a4a350a2c2684e7b0408983882d13",
}
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pixels, as in OpenAI's CLIP
STD = (0.26862954, 0.26130258, 0.27577711)


def read(path: str = WEIGHTS) -> bytes:
    """A weights file; those that come with this project must be exactly that.

    Raises:
        UserError: it is not, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); check it out or install promptbias again"
        ) from error
    if hashlib.sha256(content).hexdigest() != SHA256.get(path, hashlib.sha256(content).hexdigest()):
        pointer = content.startswith(b"version https://git-lfs")
        damage = "is a git-LFS pointer" if pointer else "is damaged (cut, or changed as by a conversion of line ends)"
        raise UserError(f"{path} {damage}; check it out or install promptbias again")
    return content


def metadata(path: str = WEIGHTS) -> dict[str, Any]:
    """The header of the weights file: the architecture, mean and std of the pixels, steps, batch, rate and seed."""
    content = read(path)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # the format of safetensors
    return {key: json.loads(value) for key, value in header["__metadata__"].items()}


def state_dict(path: str = WEIGHTS) -> "dict[str, Tensor]":
    """All weights under OpenAI's names, as `clip.model.build_model` takes them: float32, rounded to float16.

    The file only has the embeddings of trained tokens. The other rows of the embedding (49408, 128) are drawn here,
    deterministically, from a normal distribution with the mean and standard deviation of the trained ones. Words that
    were never seen carry no meaning, but they differ, so that tuning can tell classes with such names apart.
    """
    import numpy as np
    import torch
    from safetensors.torch import load

    stored = load(read(path))
    ids = stored.pop("token_ids").long()
    scales = {name[: -len(".scale")]: stored.pop(name) for name in list(stored) if name.endswith(".scale")}
    tensors = {name: (tensor * scales.get(name, 1)).half().float() for name, tensor in stored.items()}
    trained = tensors["token_embedding.weight"]
    shape = metadata(path)["architecture"]["vocab_size"], trained.shape[1]
    drawn = np.random.RandomState(0).standard_normal(shape)  # RandomState is frozen: the same in every version of numpy
    rows = torch.from_numpy(drawn).float() * trained.std(0) + trained.mean(0)
    rows[ids] = trained
    return {**tensors, "token_embedding.weight": rows.half().float()}
