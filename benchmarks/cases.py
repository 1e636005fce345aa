"""What is measured: each case as one function to call again and again, on the usual side and on ours."""

import io
import os
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from dassl.config import get_cfg_default
from torch import Tensor

from promptbias.engine import run_folder as run_files
from promptbias.model.loading import import_clip
from promptbias.trainers import bias_tuning, ivlp, zeroshot

from .usual import UsualBiasTuning, UsualCLIP, UsualIVLP, usual_relevancy

VIT_B16 = dict(
    embed_dim=512,
    image_resolution=224,
    vision_layers=12,
    vision_width=768,
    vision_patch_size=16,
    context_length=77,
    vocab_size=49408,
    transformer_width=512,
    transformer_heads=8,
    transformer_layers=12,
)
TEMPLATE = "a photo of a {}."
METHODS = {
    "BiasTuning": (bias_tuning, UsualBiasTuning),
    "IVLP": (ivlp, UsualIVLP),
    "ZeroshotCLIP": (zeroshot, UsualCLIP),
}
LR = 0.0025


class Case(NamedTuple):
    """One row of the table.

    Attributes:
        task: "train" one step, "evaluate" all images in batches, or "relevancy" of all pairs.
        method: BiasTuning, IVLP (4 + 4 prompts in each of 12 blocks) or ZeroshotCLIP.
        classes, images, batch: how many; an image belongs to the class of its number.
    """

    task: str
    method: str
    classes: int
    images: int
    batch: int

    def __str__(self) -> str:
        if self.task == "train":
            return f"{self.method} training step, {self.classes} classes, batch {self.batch}"
        if self.task == "evaluate":
            return f"{self.method} evaluation of {self.images} images, {self.classes} classes"
        return f"relevancy of both towers, all blocks, {self.images} pairs"


def random_clip(shape: dict[str, int] = VIT_B16):
    """A stock CLIP with random weights, the same each time."""
    torch.manual_seed(0)
    return import_clip()[1].CLIP(**shape).float().eval()


def names(classes: int):
    """Class names of one to three words, as in the family's datasets."""
    words = ["river", "old stone bridge", "annual crop land", "maple", "red fox"]
    return [f"{words[k % len(words)]} {k}" if k >= len(words) else words[k] for k in range(classes)]


def our_model(case: Case, clip_model, precision: str, device: str):
    """The project's CustomCLIP for a case."""
    cfg = get_cfg_default()
    size, depth = clip_model.visual.input_resolution, len(clip_model.transformer.resblocks)
    cfg.INPUT.SIZE, cfg.USE_CUDA = (size, size), device == "cuda"
    for node in ("BIASTUNING", "IVLP", "ZEROSHOTCLIP"):
        cfg.TRAINER[node].PREC = precision
    cfg.TRAINER.BIASTUNING.TEMPLATE = cfg.TRAINER.ZEROSHOTCLIP.TEMPLATE = TEMPLATE
    for key in ("PROMPT_DEPTH_VISION", "PROMPT_DEPTH_TEXT"):
        cfg.TRAINER.IVLP[key] = depth
    torch.manual_seed(1)
    return METHODS[case.method][0].CustomCLIP(cfg, names(case.classes), clip_model).to(device)


def usual_model(case: Case, clip_model, device: str):
    """The usual model, with the same learned values at the start."""
    ours = our_model(case, clip_model, "fp32", device)
    return METHODS[case.method][1](clip_model, ours.text.tokens, *ours.learner.parameters()).to(device)


def images_and_labels(case: Case, size: int, device: str):
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(case.images, 3, size, size, generator=generator)
    return images.to(device), torch.arange(case.images, device=device) % case.classes


def prepare(case: Case, side: str, device: str, shape: dict[str, int] = VIT_B16) -> Callable[[], Tensor]:
    """Build one side of a case.

    Args:
        side: "usual", or a precision of ours.

    Returns:
        A function that does the work once and returns the loss, the logits or the relevancies, on the device.
    """
    clip_model = random_clip(shape)
    image, label = images_and_labels(case, shape["image_resolution"], device)
    if case.task == "relevancy":
        if side == "usual":
            model = usual_model(case, clip_model, device)
            return lambda: torch.cat(usual_relevancy(model.clip, image, model.tokens[label]), 1)
        from promptbias.interp.relevancy import relevancy

        model = our_model(case, clip_model, side, device).eval()
        return lambda: torch.cat(relevancy(model, image, label), 1)

    model = usual_model(case, clip_model, device) if side == "usual" else our_model(case, clip_model, side, device)
    learned = [p for p in model.parameters() if p.requires_grad]
    if case.task == "evaluate":
        model.eval()

        @torch.no_grad()
        def evaluate() -> Tensor:
            for parameter in learned:
                parameter.add_(0)  # as after training: what ours has kept of the texts is out of date
            return torch.cat([model(batch) for batch in image.split(case.batch)])

        return evaluate

    optimizer = torch.optim.SGD(learned, lr=LR, momentum=0.9, weight_decay=5e-4)

    def train() -> Tensor:
        loss = F.cross_entropy(model(image), label) if side == "usual" else model.train()(image, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return train


def file_sizes(shape: dict[str, int] = VIT_B16) -> dict[str, int]:
    """Bytes of a checkpoint: the whole CLIP as the usual code saves it, and what BiasTuning learned."""
    case, clip_model = Case("train", "BiasTuning", 10, 1, 1), random_clip(shape)
    whole = io.BytesIO()
    torch.save(clip_model.half().state_dict(), whole)
    learner = our_model(case, clip_model.float(), "fp32", "cpu").learner
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.pth.tar-10")
        run_files.save({"state_dict": learner.state_dict(), "epoch": 10}, path)
        return {"usual": whole.getbuffer().nbytes, "ours": os.path.getsize(path)}
