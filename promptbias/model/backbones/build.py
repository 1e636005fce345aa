"""The `clip` module's CLIP from any backbone, without rounding a single weight."""

import inspect
import os
from typing import Any

import torch
import torch.nn as nn

from promptbias.model.clip_module import import_clip
from promptbias.utils.errors import UserError

from .backbone import GELU, Backbone, Branch, State, VisionSize, count_blocks, image_size_of

VOCABULARY = 49408  # of OpenAI's tokenizer, the only one that is used here
HEAD_WIDTH = 64  # in OpenAI's CLIPs
FIRST_MLP = "transformer.resblocks.0.mlp.c_fc.weight"
# What MaPLe's and PromptSRC's copies of `clip` shall build into the model: nothing.
DESIGN_DETAILS = {"trainer": "CoOp", "vision_depth": 0, "language_depth": 0, "vision_ctx": 0, "language_ctx": 0}


def build(backbone: Backbone) -> nn.Module:
    """A stock CLIP in float32 on the CPU, in eval mode.

    `clip.build_model` is not used, since it rounds the weights of all products to float16.

    Raises:
        UserError: weights that are not those of OpenAI's ViT architecture, that do not fit what their source says of
            them, or are not finite; or the `clip` module cannot build the model.
    """
    state = backbone.weights()
    check(state, backbone)
    clip_model = architecture(state)
    follow(backbone.vision, clip_model.visual.transformer.resblocks, state["visual." + FIRST_MLP].shape[0])
    follow(backbone.text, clip_model.transformer.resblocks, state[FIRST_MLP].shape[0])
    clip_model.visual.ln_pre.eps = clip_model.visual.ln_post.eps = backbone.vision.eps
    clip_model.ln_final.eps = backbone.text.eps
    try:
        clip_model.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip().rstrip(". ")
        raise UserError(
            f"{backbone.name} does not fit OpenAI's ViT architecture: {first} (found: {VisionSize.of(state)})"
        ) from error
    clip_model.preprocessing = backbone.preprocessing
    return clip_model.eval()


def check(state: State, backbone: Backbone) -> None:
    """Refuse weights that cannot be meant.

    Raises:
        UserError: another size than the source says, another tokenizer's vocabulary, NaN or infinity.
    """
    found, words = VisionSize.of(state), state["token_embedding.weight"].shape[0]
    if backbone.vision_size not in (None, found):
        raise UserError(
            f"{backbone.name} says a ViT of {backbone.vision_size}, but the weights are one of {found}; "
            "give the name that belongs to them"
        )
    if words != VOCABULARY:
        raise UserError(
            f"{backbone.name} has a vocabulary of {words:,} tokens, so its text branch needs a tokenizer of its own; "
            f"only CLIPs with OpenAI's ({VOCABULARY:,} tokens) are supported"
        )
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{backbone.name} holds NaN or infinity in {name}; get the file again")


def architecture(state: State) -> Any:
    """The `clip` module's CLIP in the size of these weights, with weights at random, in float32."""
    _, model = import_clip()
    wants_details = "design_details" in inspect.signature(model.CLIP.__init__).parameters
    vision, text_width = VisionSize.of(state), state["ln_final.weight"].shape[0]
    try:
        return model.CLIP(
            embed_dim=state["text_projection"].shape[1],
            image_resolution=image_size_of(state),
            vision_layers=vision.blocks,
            vision_width=vision.width,
            vision_patch_size=vision.patch,
            context_length=state["positional_embedding"].shape[0],
            vocab_size=VOCABULARY,
            transformer_width=text_width,
            transformer_heads=max(text_width // HEAD_WIDTH, 1),
            transformer_layers=count_blocks(state, "transformer"),
            **({"design_details": DESIGN_DETAILS} if wants_details else {}),
        ).float()
    except Exception as error:  # another project's code, which fails in its own ways
        raise UserError(
            f"the CLIP code in {os.path.dirname(model.__file__)} cannot build a ViT of {vision} "
            f"({(str(error).strip() or type(error).__name__).splitlines()[0]})"
        ) from error


def follow(branch: Branch, blocks: Any, hidden: int) -> None:
    """Give stock blocks what `branch` says, where that is not OpenAI's.

    Args:
        hidden: width of the MLPs.

    Raises:
        UserError: the width is no multiple of the number of heads.
    """
    for block in blocks:
        width = block.attn.embed_dim
        if branch.heads is not None:
            if branch.heads < 1 or width % branch.heads:
                raise UserError(f"a branch has a width of {width}, which is no multiple of its {branch.heads} heads")
            block.attn.num_heads, block.attn.head_dim = branch.heads, width // branch.heads
        if hidden != block.mlp.c_fc.out_features:
            block.mlp.c_fc, block.mlp.c_proj = nn.Linear(width, hidden), nn.Linear(hidden, width)
        if branch.activation == GELU:
            block.mlp.gelu = nn.GELU()
        block.ln_1.eps = block.ln_2.eps = branch.eps
