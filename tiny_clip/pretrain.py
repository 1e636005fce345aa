"""Pre-trains the tiny CLIP from scratch: python -m tiny_clip.pretrain

Running the same command again resumes an interrupted run. The batch of a step depends only on the seed and the step.
"""

import argparse
import json
import math
import os
import random
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from promptbias.model.loading import import_clip
from promptbias.utils.errors import cli
from promptbias.utils.files import atomic_write, checksum
from promptbias.utils.tensor_files import load_tensors, save_tensors

from . import MEAN, STD, WEIGHTS
from .captions import DIGITS, captions, vocabulary
from .glyphs import CHARACTERS, Scribble, render

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
SCALE = (1 / 0.07, 100.0)  # CLIP's initial logit scale, and the value at which it is clipped


class Towers:
    """Both branches of a stock CLIP, batch first, activations in bfloat16 around float32 weights.

    Attention is written out: at these sizes two matrix products are several times faster on a CPU than a fused kernel.
    """

    def __init__(self, clip: Any) -> None:
        self.clip = clip

    def image(self, images: Tensor) -> Tensor:
        """(B, 64, 64) or (B, 3, 64, 64) in [0, 1] -> features (B, 128)."""
        visual, n, p = self.clip.visual, len(images), ARCHITECTURE["vision_patch_size"]
        mean, std = (torch.tensor(t).view(3, 1, 1, 1, 1) for t in (MEAN, STD))
        x = (images.reshape(n, -1, 64 // p, p, 64 // p, p) - mean) / std
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
    def block(block: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
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
    """The images and captions of each step.

    Args:
        rows: token ids to train, sorted so that EOS stays the largest.
        steps: length of the whole run, over which the curriculum extends.
    """

    def __init__(self, rows: Tensor, batch: int, steps: int, seed: int) -> None:
        self.rows, self.batch, self.steps, self.seed = rows, batch, steps, seed
        self.glyphs, self.scribble = render(), Scribble()

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images (B, 64, 64), labels (B,) and tokens (K, N) as rows of the embedding."""
        # Only nearly clean glyphs get training off the plateau (loss = ln K); distortion and long captions come later.
        strength = 0.25 + 0.75 * min(max((step / self.steps - 0.15) / 0.4, 0), 1)
        choose = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        of_kind = [len(DIGITS), len(CHARACTERS) - len(DIGITS)]
        share = torch.tensor([0.5 / n for n in of_kind for _ in range(n)])  # as many digits as letters
        labels = share.multinomial(self.batch, replacement=True, generator=choose)
        fonts = torch.randint(len(self.glyphs), (self.batch,), generator=choose)
        texts = captions(random.Random(f"{self.seed} {step}"), long=0.3 if strength > 0.25 else 0.0)
        tokens = import_clip()[0].tokenize(texts)
        tokens = tokens[
            :, : int(tokens.argmax(-1).max()) + 1
        ].contiguous()  # causal attention: nothing after EOS matters
        images = self.scribble(self.glyphs[fonts, labels], strength, choose)
        return images, labels, torch.searchsorted(self.rows, tokens)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 200) -> float:
    """Learning rate of a step: linear warm-up, then cosine to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def log_scale(step: int, steps: int) -> float:
    """Logarithm of the logit scale, which grows geometrically over the first 60 % of the run."""
    low, high = (math.log(s) for s in SCALE)
    return low + (high - low) * min(step / (0.6 * steps), 1)


def pack(clip: nn.Module, rows: Tensor, metadata: dict[str, object]) -> bytes:
    """The weights as a safetensors file of a few MB, which `tiny_clip.state_dict` reads.

    Matrices of the blocks are int8 with a scale per row, everything else is float16. The embedding is reduced to the
    trained rows and their token ids.
    """
    tensors = {"token_ids": rows.int()}
    for name, weight in clip.state_dict().items():
        if "resblocks" in name and weight.ndim == 2:
            scale = weight.abs().amax(1, keepdim=True) / 127
            tensors[name + ".scale"] = scale
            tensors[name] = (weight / scale).round().to(torch.int8)
        else:
            tensors[name] = weight.half().contiguous()
    return save(tensors, {k: json.dumps(v) for k, v in metadata.items()})


class Pretraining:
    """A run: the model, its optimizer and the steps so far, which can be saved and resumed.

    Args:
        lr: peak learning rate of AdamW.
    """

    architecture: dict[str, int] = ARCHITECTURE  # what the file says of it

    def __init__(self, steps: int, batch: int, lr: float, seed: int) -> None:
        torch.manual_seed(seed)
        clip, model = import_clip()
        self.settings: dict[str, Any] = {"steps": steps, "batch": batch, "rate": lr, "seed": seed}
        self.steps, self.lr = steps, lr
        self.rows = clip.tokenize(self.vocabulary()).unique()
        self.clip = model.CLIP(**{**ARCHITECTURE, "vocab_size": len(self.rows)})
        self.clip.logit_scale.requires_grad_(False)
        self.weights = [p for p in self.clip.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in self.weights if p.ndim > 1], "weight_decay": 0.05},
                {"params": [p for p in self.weights if p.ndim < 2], "weight_decay": 0.0},
            ],
            betas=(0.9, 0.98),
        )
        self.towers, self.batches = Towers(self.clip), Batches(self.rows, batch, steps, seed)
        self.start, self.accuracy = 0, 0.0

    def vocabulary(self) -> list[str]:
        """Texts that contain every word to train."""
        return vocabulary()

    def step(self, step: int) -> float:
        """Train on the batch of one step, and update the moving average of the accuracy; returns the loss."""
        images, labels, tokens = self.batches(step)
        self.clip.logit_scale.fill_(log_scale(step, self.steps))
        image, text = self.towers.image(images).float(), self.towers.text(tokens).float()
        logits = self.clip.logit_scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        loss = F.cross_entropy(logits, labels)
        self.update(loss, step)
        self.accuracy = 0.98 * self.accuracy + 0.02 * (logits.argmax(-1) == labels).float().mean().item()
        return loss.item()

    def update(self, loss: Tensor, step: int) -> None:
        """Move the weights by the gradients of a loss."""
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.steps, self.lr)
        self.optimizer.step()

    def save_state(self, path: str, finished: int) -> None:
        """Write what resuming needs after `finished` steps."""
        state = {"settings": self.settings, "clip": self.clip.state_dict(), "optimizer": self.optimizer.state_dict()}
        save_tensors({**state, "step": finished, "right": self.accuracy}, path)

    def resume(self, path: str) -> None:
        """Load the state of a run with the same settings, if there is one."""
        if not os.path.exists(path):
            return
        state = load_tensors(path)
        if state["settings"] == self.settings:
            self.clip.load_state_dict(state["clip"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.start, self.accuracy = state["step"], state["right"]


def pretrain(run: Pretraining, save_every: int, output: str) -> None:
    """Train and write the weights to `output`; until then `output`.state holds what resuming needs."""
    steps, state_file = run.steps, output + ".state"
    run.resume(state_file)
    progress = tqdm(range(run.start, steps), initial=run.start, total=steps, unit="step", mininterval=5, smoothing=0.05)
    for step in progress:
        loss = run.step(step)
        progress.set_postfix(loss=f"{loss:.2f}", glyphs=f"{100 * run.accuracy:.0f} %", refresh=False)
        if (step + 1) % save_every == 0 and step + 1 < steps:
            run.save_state(state_file, step + 1)

    metadata = {"architecture": run.architecture, "pixel_mean": MEAN, "pixel_std": STD, **run.settings}
    with atomic_write(output, "wb") as file:
        file.write(pack(run.clip, run.rows, metadata))
    print(f"{output} has sha256 {checksum(output)}; tiny_clip.SHA256 must have that of the file that is shipped")
    if os.path.exists(state_file):
        os.remove(state_file)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tiny_clip.pretrain", description=__doc__)
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--batch", type=int, default=64, help="images per step")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of AdamW")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save-every", type=int, default=250, help="save the state every N steps")
    parser.add_argument("--output", default=WEIGHTS, help="safetensors file to write")
    args = parser.parse_args(argv)
    pretrain(Pretraining(args.steps, args.batch, args.lr, args.seed), args.save_every, args.output)


if __name__ == "__main__":
    cli(main)
