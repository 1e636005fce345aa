"""The architectures of CLIP with random weights, in transformers' and open_clip's own classes, narrow and real."""

from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class Shape:
    """An architecture; by default with what a narrow version has in common with all others."""

    patch: int
    grid: int  # patches on a side
    heads: int  # of the vision branch
    head_width: int = 64
    hidden: float = 4.0  # width of the vision MLP in widths of the branch
    text_heads: int = 1  # of 64
    blocks: int = 3
    text_blocks: int = 2
    joint: int = 24

    @property
    def pixels(self):
        return self.patch * self.grid

    @property
    def width(self):
        return self.heads * self.head_width


B = Shape(16, 14, 12, text_heads=8, blocks=12, text_blocks=12, joint=512)
L = Shape(14, 16, 16, text_heads=12, blocks=24, text_blocks=12, joint=768)
H = Shape(14, 16, 16, 80, text_heads=16, blocks=32, text_blocks=24, joint=1024)
REAL = {"ViT-B/32": replace(B, patch=32, grid=7), "ViT-B/16": B, "ViT-L/14": L, "ViT-L/14@336px": replace(L, grid=24)}
REAL["ViT-H/14"] = H
# Narrow: patches, head widths and MLPs are real; OpenAI's rule for the number of heads fails for H and g, as in truth.
NARROW = {
    "ViT-B/32": Shape(32, 2, 2),
    "ViT-B/16": Shape(16, 3, 2),
    "ViT-L/14": Shape(14, 2, 2, text_heads=2),
    "ViT-L/14@336px": Shape(14, 4, 2, text_heads=2),
    "ViT-H/14": Shape(14, 2, 4, 80, text_heads=2),
    "ViT-g/14": Shape(14, 2, 8, 88, hidden=4.3637, text_heads=2, blocks=1),
}


def shaken(model):
    """`model` with biases and gains at random as well, which otherwise are 0 and 1 and hide mistakes."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.2 * torch.randn_like(parameter)
    return model.eval()


def save_transformers(shape, folder, activation):
    """A CLIPModel, saved in a folder."""
    from transformers import CLIPConfig, CLIPModel

    common = {"hidden_act": activation, "layer_norm_eps": 1e-4}  # which is not the default
    vision = {"hidden_size": shape.width, "intermediate_size": int(shape.width * shape.hidden)}
    vision |= {"num_hidden_layers": shape.blocks, "num_attention_heads": shape.heads}
    vision |= {"image_size": shape.pixels, "patch_size": shape.patch}
    width = 64 * shape.text_heads
    text = {"hidden_size": width, "intermediate_size": 4 * width, "projection_dim": shape.joint}
    text |= {"num_hidden_layers": shape.text_blocks, "num_attention_heads": shape.text_heads}
    config = CLIPConfig(text_config={**common, **text}, vision_config={**common, **vision}, projection_dim=shape.joint)
    model = shaken(CLIPModel(config))
    model.save_pretrained(folder)
    return model


def open_clip_config(shape, activation):
    """The model config of open_clip."""
    vision = {"image_size": shape.pixels, "layers": shape.blocks, "width": shape.width, "patch_size": shape.patch}
    vision |= {"head_width": shape.head_width, "mlp_ratio": shape.hidden}
    text = {"context_length": 77, "vocab_size": 49408, "width": 64 * shape.text_heads, "heads": shape.text_heads}
    config = {"embed_dim": shape.joint, "vision_cfg": vision, "text_cfg": {**text, "layers": shape.text_blocks}}
    return {**config, "quick_gelu": True} if activation == "quick_gelu" else config
