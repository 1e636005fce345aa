"""Pre-trains the tiny CLIP from nothing: python -m tiny_clip.pretrain

A stopped run goes on where it was when the same command is given again. The batch of a step depends on the seed and the
step alone.
"""

import argparse
import json
import math
import os
import random
import warnings

warnings.filterwarnings("ignore", message="pkg_resources is deprecated")

import torch
import torch.nn.functional as F
from clip import tokenize
from clip.model import CLIP
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from tiny_clip import MEAN, STD, WEIGHTS
from tiny_clip.captions import DIGITS, captions, vocabulary
from tiny_clip.glyphs import CHARACTERS, Scribble, render
from promptbias.utils.errors import cli
from promptbias.utils.files import writing

ARCHITECTURE = {
    "embed_dim": 128,
    "image_resolution": 64,
    "vision_layers": 12,
    "vision_width": 128,
    "vision_patch_size": 8,
    "context_length": 77,
    "vocab_size": 49408,
    "transformer_width": 128,
    "transformer_heads": 2,
    "transformer_layers": 12,
}
SCALE = (1 / 0.07, 100.0)  # where CLIP's logit scale starts, and where it is clipped


class Towers:
    """Both branches of a stock CLIP, batch first, activations in bfloat16 around float32 weights.

    Attention is spelled out: at these sizes two matrix products are several times faster on a CPU than the fused kernel.
    """

    def __init__(self, clip: CLIP) -> None:
        self.clip = clip

    def image(self, pictures: Tensor) -> Tensor:
        """(B, 64, 64) in [0, 1] -> features (B, 128)."""
        visual, n, p = self.clip.visual, len(pictures), ARCHITECTURE["vision_patch_size"]
        mean, std = (torch.tensor(t).view(3, 1, 1, 1, 1) for t in (MEAN, STD))
        x = (pictures.view(n, 1, 64 // p, p, 64 // p, p) - mean) / std
        x = x.permute(0, 2, 4, 1, 3, 5).reshape(n, -1, 3 * p * p)  # (B, patches, pixels)
        x = linear(x.bfloat16(), visual.conv1.weight.flatten(1))
        x = torch.cat([visual.class_embedding.bfloat16().expand(n, 1, -1), x], 1)
        x = norm(visual.ln_pre, x + visual.positional_embedding.bfloat16())
        for block in visual.transformer.resblocks:
            x = self.block(block, x)
        return norm(visual.ln_post, x[:, 0]) @ visual.proj.bfloat16()

    def text(self, tokens: Tensor) -> Tensor:
        """(K, N) rows of the embedding, cut after the last EOS -> features (K, 128)."""
        clip, n = self.clip, tokens.shape[1]
        x = (clip.token_embedding(tokens) + clip.positional_embedding[:n]).bfloat16()
        for block in clip.transformer.resblocks:
            x = self.block(block, x, block.attn_mask[:n, :n].bfloat16())
        return norm(clip.ln_final, x[torch.arange(len(x)), tokens.argmax(-1)]) @ clip.text_projection.bfloat16()

    @staticmethod
    def block(block: nn.Module, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        attn, heads = block.attn, block.attn.num_heads
        q, k, v = (
            t.unflatten(-1, (heads, -1)).transpose(1, 2)
            for t in linear(norm(block.ln_1, x), attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
        )
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        weights = (scores if mask is None else scores + mask).softmax(-1)
        x = x + linear((weights @ v).transpose(1, 2).flatten(-2), attn.out_proj.weight, attn.out_proj.bias)
        h = linear(norm(block.ln_2, x), block.mlp.c_fc.weight, block.mlp.c_fc.bias)
        return x + linear(block.mlp.gelu(h), block.mlp.c_proj.weight, block.mlp.c_proj.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x.float(), layer.normalized_shape, layer.weight, layer.bias, layer.eps).to(x.dtype)


class Batches:
    """The pictures and captions of each step.

    Args:
        rows: the token ids that are trained, sorted, so that EOS stays the largest.
        steps: length of the whole run, over which the curriculum is spread.
    """

    def __init__(self, rows: Tensor, batch: int, steps: int, seed: int) -> None:
        self.rows, self.batch, self.steps, self.seed = rows, batch, steps, seed
        self.glyphs, self.scribble = render(), Scribble()

    def __call__(self, step: int):
        """-> pictures (B, 64, 64), labels (B,), tokens (K, N) as rows of the embedding."""
        # The plateau (loss = ln K) is left only on nearly clean glyphs; handwriting and long captions come later.
        strength = 0.25 + 0.75 * min(max((step / self.steps - 0.15) / 0.4, 0), 1)
        choose = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        of_kind = [len(DIGITS), len(CHARACTERS) - len(DIGITS)]
        share = torch.tensor([0.5 / n for n in of_kind for _ in range(n)])  # as many digits as letters
        labels = share.multinomial(self.batch, replacement=True, generator=choose)
        fonts = torch.randint(len(self.glyphs), (self.batch,), generator=choose)
        texts = captions(random.Random(f"{self.seed} {step}"), long=0.3 if strength > 0.25 else 0.0)
        tokens = tokenize(texts)
        tokens = tokens[:, : int(tokens.argmax(-1).max()) + 1].contiguous()  # nothing after EOS can matter
        pictures = self.scribble(self.glyphs[fonts, labels], strength, choose)
        return pictures, labels, torch.searchsorted(self.rows, tokens)


def rate_at(step: int, steps: int, peak: float, warmup: int = 200) -> float:
    """Learning rate of a step: linear warm-up, then cosine to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def scale_at(step: int, steps: int) -> float:
    """Logarithm of the logit scale: it grows geometrically over the first 60 % of the run."""
    low, high = (math.log(s) for s in SCALE)
    return low + (high - low) * min(step / (0.6 * steps), 1)


def pack(clip: CLIP, rows: Tensor, about: dict[str, object]) -> bytes:
    """The weights as a safetensors file of some MB, which `tiny_clip.state_dict` reads.

    Matrices of the blocks are 8 bits with a scale for each row, everything else is float16; of the embedding there are
    only the trained rows, and their token ids.
    """
    tensors = {"token_ids": rows.int()}
    for name, weight in clip.state_dict().items():
        if "resblocks" in name and weight.ndim == 2:
            scale = weight.abs().amax(1, keepdim=True) / 127
            tensors[name + ".scale"] = scale
            tensors[name] = (weight / scale).round().to(torch.int8)
        else:
            tensors[name] = weight.half().contiguous()
    return save(tensors, {k: json.dumps(v) for k, v in about.items()})


def pretrain(steps: int, batch: int, rate: float, seed: int, keep_every: int, output: str) -> None:
    """Trains and writes the weights to `output`; until then `output`.state holds what going on needs."""
    torch.manual_seed(seed)
    rows = tokenize(vocabulary()).unique()
    clip = CLIP(**{**ARCHITECTURE, "vocab_size": len(rows)})
    clip.logit_scale.requires_grad_(False)
    weights = [p for p in clip.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in weights if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    towers, batches = Towers(clip), Batches(rows, batch, steps, seed)
    settings = {"steps": steps, "batch": batch, "rate": rate, "seed": seed}
    state_file, start, right = output + ".state", 0, 0.0
    if os.path.exists(state_file):
        state = torch.load(state_file, weights_only=True)
        if state["settings"] == settings:
            clip.load_state_dict(state["clip"])
            optimizer.load_state_dict(state["optimizer"])
            start, right = state["step"], state["right"]

    progress = tqdm(range(start, steps), initial=start, total=steps, unit="step", mininterval=5, smoothing=0.05)
    for step in progress:
        pictures, labels, tokens = batches(step)
        clip.logit_scale.fill_(scale_at(step, steps))
        image, text = towers.image(pictures).float(), towers.text(tokens).float()
        logits = clip.logit_scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps, rate)
        optimizer.step()
        right = 0.98 * right + 0.02 * (logits.argmax(-1) == labels).float().mean().item()
        progress.set_postfix(loss=f"{loss.item():.2f}", glyphs=f"{100 * right:.0f} %", refresh=False)
        if (step + 1) % keep_every == 0 and step + 1 < steps:
            state = {"settings": settings, "clip": clip.state_dict(), "optimizer": optimizer.state_dict()}
            with writing(state_file, "wb") as file:
                torch.save({**state, "step": step + 1, "right": right}, file)

    about = {"architecture": ARCHITECTURE, "pixel_mean": MEAN, "pixel_std": STD, **settings}
    with writing(output, "wb") as file:
        file.write(pack(clip, rows, about))
    if os.path.exists(state_file):
        os.remove(state_file)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tiny_clip.pretrain", description=__doc__)
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--batch", type=int, default=64, help="pictures per step")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate of AdamW")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep-every", type=int, default=250, help="steps after which the state is kept")
    parser.add_argument("--output", default=WEIGHTS, help="safetensors file to write")
    pretrain(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    cli(main)
