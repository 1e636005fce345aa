"""Trains the tiny CLIP further, on rendered scenes and with four heads: python -m tiny_clip.pretrain_scenes

It starts from the weights of `tiny_clip.pretrain`: each head of 64 dimensions becomes two of 32. Running the same
command again resumes an interrupted run. The batch of a step depends only on the seed and the step.
"""

import argparse
import random
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load
from torch import Tensor

from promptbias.model.loading import import_clip
from promptbias.utils.errors import cli
from promptbias.utils.files import checksum

from . import SCENES, WEIGHTS, read, state_dict
from .captions import captions
from .grammar import caption, words
from .pretrain import ARCHITECTURE, Pretraining, log_scale, pretrain
from .scenes import Scenes

HEADS = 4
CAPTION_LOSS = 0.5  # weight of the loss on captions of scenes, beside that on captions of classes
NEW_SCENES = 0.15  # of the run: by then as many images are more than a glyph on black as are to be


def split_heads(clip: Any) -> None:
    """Give each branch HEADS heads in place of 2, in place.

    A query's product with a key of 64 dimensions becomes two of 32, each about half of it. Scores are divided by
    sqrt(32) in place of sqrt(64), so that queries sqrt(2) times as long keep scores where they were.
    """
    for transformer in (clip.visual.transformer, clip.transformer):
        for block in transformer.resblocks:
            attn = block.attn
            attn.num_heads, attn.head_dim = HEADS, attn.embed_dim // HEADS
            attn.in_proj_weight[: attn.embed_dim] *= 2**0.5
            attn.in_proj_bias[: attn.embed_dim] *= 2**0.5


class ScenePretraining(Pretraining):
    """A run, which starts from other weights.

    Args:
        start: file of these weights.
    """

    architecture = {**ARCHITECTURE, "transformer_heads": HEADS, "vision_heads": HEADS}

    def __init__(self, steps: int, batch: int, lr: float, seed: int, start: str) -> None:
        super().__init__(steps, batch, lr, seed)
        self.settings["start"] = checksum(start)
        self.scenes, self.batch, self.seed = Scenes(), batch, seed
        with torch.no_grad():
            self.load(start)
            split_heads(self.clip)

    def vocabulary(self) -> list[str]:
        return words()

    def load(self, start: str) -> None:
        """Load weights; words that they do not know start as they are."""
        state = state_dict(start)
        known = load(read(start))["token_ids"].long()
        rows = self.clip.token_embedding.weight.detach().clone()
        same = torch.isin(self.rows, known)
        rows[same] = state["token_embedding.weight"][self.rows[same]]
        rows[~same] = rows[~same] / rows[~same].std() * rows[same].std()
        self.clip.load_state_dict({**state, "token_embedding.weight": rows})

    def step(self, step: int) -> float:
        """Train on the batch of one step, and update the moving average of the accuracy; returns the loss."""
        number = self.seed * 1_000_003 + step
        drawn = self.scenes(self.batch, 1.0, min(step / (NEW_SCENES * self.steps), 1.0), number)
        choose = random.Random(number)
        of_classes = captions(choose, long=0.2)
        of_scenes = [caption(scene, choose) for scene in drawn.scenes]
        self.clip.logit_scale.fill_(log_scale(step, self.steps))
        image = F.normalize(self.towers.image(drawn.images).float(), dim=-1) * self.clip.logit_scale.exp()
        logits = image @ self.encode(of_classes).T
        loss = F.cross_entropy(logits, drawn.labels) + CAPTION_LOSS * contrast(
            image @ self.encode(of_scenes).T, of_scenes
        )
        self.update(loss, step)
        self.accuracy = 0.98 * self.accuracy + 0.02 * (logits.argmax(-1) == drawn.labels).float().mean().item()
        return loss.item()

    def encode(self, texts: list[str]) -> Tensor:
        """Unit vectors (K, 128)."""
        tokens = import_clip()[0].tokenize(texts)
        tokens = tokens[:, : int(tokens.argmax(-1).max()) + 1].contiguous()
        return F.normalize(self.towers.text(torch.searchsorted(self.rows, tokens)).float(), dim=-1)


def contrast(logits: Tensor, texts: list[str]) -> Tensor:
    """CLIP's symmetric loss of a batch (B, B), in which equal captions are no negatives of each other."""
    number = {text: k for k, text in enumerate(dict.fromkeys(texts))}
    which = torch.tensor([number[text] for text in texts])
    same = (which[:, None] == which) & ~torch.eye(len(texts), dtype=torch.bool)
    logits = logits.masked_fill(same, -torch.inf)
    own = torch.arange(len(texts))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tiny_clip.pretrain_scenes", description=__doc__)
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--batch", type=int, default=64, help="images per step")
    parser.add_argument("--lr", type=float, default=6e-4, help="peak learning rate of AdamW")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", default=WEIGHTS, help="safetensors file to start from")
    parser.add_argument("--save-every", type=int, default=200, help="save the state every N steps")
    parser.add_argument("--output", default=SCENES, help="safetensors file to write")
    args = parser.parse_args(argv)
    pretrain(ScenePretraining(args.steps, args.batch, args.lr, args.seed, args.start), args.save_every, args.output)


if __name__ == "__main__":
    cli(main)
