"""Hugging Face's CLIPModel, from a folder or the hub, read without transformers."""

import functools
import os
from typing import Any

import msgspec
import torch

from promptbias.model.images import OPENAIS, Preprocessing
from promptbias.utils.errors import UserError

from . import open_clip
from .backbone import GELU, QUICK_GELU, Backbone, Branch, State, VisionSize
from .hub import Find, in_folder, on_hub
from .weights import read_weights

PREFIX = "hf:"
CONFIG = "config.json"
PROCESSOR = ("preprocessor_config.json", "processor_config.json")
INDEX = "model.safetensors.index.json"
WEIGHTS = ("model.safetensors", INDEX, "pytorch_model.bin")
INTERPOLATION = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
EOS = (2, 49407)  # 2 stands for the largest id, which is EOS

# OpenAI's name -> Hugging Face's: of a block, and of everything else.
BLOCK = {
    "ln_1": "layer_norm1",
    "attn.out_proj": "self_attn.out_proj",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
OUTER = {
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
TRANSPOSED = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
IGNORED = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")


class BranchConfig(msgspec.Struct):
    """What both branches say in config.json; the defaults are transformers'."""

    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


class VisionConfig(BranchConfig):
    num_attention_heads: int = 12
    hidden_size: int = 768
    num_hidden_layers: int = 12
    image_size: int = 224
    patch_size: int = 32


class TextConfig(BranchConfig):
    num_attention_heads: int = 8
    eos_token_id: Any = EOS[1]


class Config(msgspec.Struct):
    """config.json of a CLIPModel. Where an old file has a `..._dict` as well, that one counts."""

    model_type: str = ""
    vision_config: VisionConfig | None = None
    text_config: TextConfig | None = None
    vision_config_dict: VisionConfig | None = None
    text_config_dict: TextConfig | None = None


class Processor(msgspec.Struct):
    """How images are prepared, in preprocessor_config.json."""

    image_mean: tuple[float, float, float] = OPENAIS.mean
    image_std: tuple[float, float, float] = OPENAIS.std
    resample: int = 3


def by_folder(folder: str) -> Backbone:
    """A folder with config.json and weights.

    Raises:
        UserError: as `_from_files`.
    """
    return _from_files(in_folder(folder), folder)


def by_hub_name(name: str) -> Backbone:
    """`name` is hf:<organisation>/<model>.

    Raises:
        UserError: as `_from_files`; or huggingface_hub is not installed, or files cannot be fetched.
    """
    return _from_files(on_hub(name.removeprefix(PREFIX)), name)


def _from_files(find: Find, name: str) -> Backbone:
    """A model in Hugging Face's format, or in open_clip's, which many models on the hub have.

    Raises:
        UserError: no config, or one that cannot be read, of another architecture or tokenizer.
    """
    path = find(CONFIG, open_clip.CONFIG)
    found = _read_json(path) if path else {}
    if found.get("model_type") != "clip" and (open_clips := find(open_clip.CONFIG)):
        found = _read_json(open_clips)
        weights = functools.partial(open_clip.in_files, find, name)
        return open_clip.from_config(name, found.get("model_cfg"), found.get("preprocess_cfg") or {}, weights)
    if path is None:
        raise UserError(f"{name} has no {CONFIG}; give the folder of a Hugging Face CLIPModel, or a weights file")
    config = _convert(found, Config, path)
    if config.model_type != "clip":
        kind = f'a "{config.model_type}"' if config.model_type else "no model_type"
        raise UserError(f'{path} says {kind}; only models of type "clip" (CLIPModel) are supported')
    vision = config.vision_config_dict or config.vision_config or VisionConfig()
    text = config.text_config_dict or config.text_config or TextConfig()
    if text.eos_token_id not in EOS:
        raise UserError(
            f"{path} has eos_token_id {text.eos_token_id}; only CLIPs with OpenAI's tokenizer are supported"
        )
    return Backbone(
        name,
        functools.partial(_weights, find, name),
        vision=Branch(vision.num_attention_heads, _activation(vision, path), vision.layer_norm_eps),
        text=Branch(text.num_attention_heads, _activation(text, path), text.layer_norm_eps),
        image_size=vision.image_size,
        vision_size=VisionSize(vision.hidden_size, vision.num_hidden_layers, vision.patch_size),
        preprocessing=_preprocessing(find),
    )


def _activation(config: BranchConfig, path: str) -> str:
    known = {"quick_gelu": QUICK_GELU, "gelu": GELU}
    if config.hidden_act not in known:
        raise UserError(f"{path} has the activation {config.hidden_act}; only {' and '.join(known)} are supported")
    return known[config.hidden_act]


def _preprocessing(find: Find) -> Preprocessing:
    path = find(*PROCESSOR)
    if path is None:
        return OPENAIS
    found = _read_json(path)
    processor = _convert(found.get("image_processor", found), Processor, path)
    if processor.resample not in INTERPOLATION:
        raise UserError(f"{path} has resample {processor.resample}, but must be one of {sorted(INTERPOLATION)}")
    return Preprocessing(processor.image_mean, processor.image_std, INTERPOLATION[processor.resample])


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return msgspec.json.decode(file.read(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error})") from error


def _convert(found: Any, kind: type, path: str) -> Any:
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{path} does not describe a CLIP: {error}") from error


def _weights(find: Find, name: str) -> State:
    path = find(*WEIGHTS)
    if path is None:
        raise UserError(f"{name} holds none of {', '.join(WEIGHTS)}")
    if os.path.basename(path) != INDEX:
        return from_transformers(read_weights(path), path)
    state: State = {}
    for shard in sorted(set(_shards(path))):
        found = find(shard)
        if found is None:
            raise UserError(f"{name} is not complete: {path} names {shard}, which is not there")
        state.update(read_weights(found))
    return from_transformers(state, path)


def _shards(path: str) -> list[str]:
    """The files that an index names. Raises UserError if it is none, or names files elsewhere."""
    shards = list(_convert(_read_json(path).get("weight_map"), dict[str, str], path).values())
    if any(os.path.basename(shard) != shard for shard in shards):
        raise UserError(f"{path} names files outside of its folder")
    return shards


def from_transformers(state: State, path: str) -> State:
    """A CLIPModel's weights under OpenAI's names.

    Raises:
        UserError: a weight is missing, or there are others than CLIPModel's.
    """
    rest = {key: value for key, value in state.items() if key not in IGNORED}
    try:
        renamed = {ours: rest.pop(theirs) for ours, theirs in OUTER.items()}
        renamed.update({ours: rest.pop(theirs).t() for ours, theirs in TRANSPOSED.items()})
        for ours, theirs in (("visual.transformer", "vision_model"), ("transformer", "text_model")):
            blocks = {key.split(".")[3] for key in state if key.startswith(f"{theirs}.encoder.layers.")}
            for i in blocks:
                block, layer = f"{ours}.resblocks.{i}", f"{theirs}.encoder.layers.{i}"
                for kind in ("weight", "bias"):
                    renamed.update({f"{block}.{a}.{kind}": rest.pop(f"{layer}.{b}.{kind}") for a, b in BLOCK.items()})
                    qkv = [rest.pop(f"{layer}.self_attn.{which}_proj.{kind}") for which in "qkv"]
                    renamed[f"{block}.attn.in_proj_{kind}"] = torch.cat(qkv)
    except KeyError as error:
        raise UserError(f"{path} does not hold the weights of a whole CLIPModel: it has no {error.args[0]}") from error
    if rest:
        raise UserError(f"{path} holds more than a CLIPModel, such as {next(iter(rest))}; merge adapters before saving")
    return renamed
