"""A small CLIP of OpenAI's architecture, pre-trained on rendered glyphs. `README.md` beside this file is its model card."""

import json
import os
from typing import TYPE_CHECKING, Any, Dict

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tiny.safetensors")
MEAN = (0.48145466, 0.4578275, 0.40821073)  # pixels are normalised as OpenAI's CLIP does it
STD = (0.26862954, 0.26130258, 0.27577711)


def about(path: str = WEIGHTS) -> dict[str, Any]:
    """What the header of the weights says: the architecture, the pixels' mean and std, steps, seed."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return {key: json.loads(value) for key, value in file.metadata().items()}


def state_dict(path: str = WEIGHTS) -> "dict[str, Tensor]":
    """All weights under OpenAI's names, float32 with values that float16 holds too, as `clip.model.build_model` takes them.

    The file has only the words that were trained. The other rows of the embedding (49408, 128) are drawn here, always
    the same, from a normal distribution with the mean and spread of the trained ones: words that were never seen mean
    nothing, but two of them still differ, so that tuning can tell classes with such names apart.
    """
    import numpy as np
    import torch
    from safetensors.torch import load_file

    stored = load_file(path)
    ids = stored.pop("token_ids").long()
    scales = {name[: -len(".scale")]: stored.pop(name) for name in list(stored) if name.endswith(".scale")}
    tensors = {name: (tensor * scales.get(name, 1)).half().float() for name, tensor in stored.items()}
    trained = tensors["token_embedding.weight"]
    shape = about(path)["architecture"]["vocab_size"], trained.shape[1]
    drawn = np.random.RandomState(0).standard_normal(shape)  # this stream is frozen: equal in every version of numpy
    rows = torch.from_numpy(drawn).float() * trained.std(0) + trained.mean(0)
    rows[ids] = trained
    return {**tensors, "token_embedding.weight": rows.half().float()}
