"""Small CLIPs with random prompts or biases, for the tests of interpretation."""

import copy

import torch

CLASSES = ["cat", "permanent crop land", "highway or road"]
V, T = 3, 4  # vision and text prompts per block
M, L = 16, 3  # patches and blocks of the small CLIP


def sharpened(clip_model):
    """`clip_model` with attention that is far from uniform."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, p in clip_model.named_parameters():
            if "resblocks" in name and p.ndim == 2:
                p.copy_(1.5 * torch.randn_like(p) * p.shape[-1] ** -0.5)
    return clip_model


def tuned_at_random(clip_model, method):
    """A method around a copy of `clip_model`, with random trained parameters, in float32."""
    from promptbias.model.tuned_clip import TunedCLIP

    torch.manual_seed(0)
    model = TunedCLIP(copy.deepcopy(clip_model), CLASSES, method, precision="fp32").eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.adapters.parameters():
            p += torch.randn_like(p)
    return model.requires_grad_(False)


def deep_prompts(depth_vision=L, depth_text=L, text_prompts=T):
    """IVLP with V + `text_prompts` prompts per block."""
    from promptbias.trainers.ivlp import IVLPConfig

    return IVLPConfig(
        n_ctx_vision=V, n_ctx_text=text_prompts, prompt_depth_vision=depth_vision, prompt_depth_text=depth_text
    )


def vision_prompts(depth=L):
    """VPT with V prompts per block."""
    from promptbias.trainers.vpt import VPTConfig

    return VPTConfig(n_ctx=V, depth_vision=depth)


def batch_of(branch, images):
    """All images or all classes."""
    return images if branch.name == "vision" else torch.arange(len(CLASSES))
