"""What is measured: the cases, and each of them as one function to call repeatedly, of the baseline and of ours."""

import io
import os
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from promptbias.interp.faithfulness import deletion_curves
from promptbias.interp.relevancy import relevancy
from promptbias.model.loading import import_clip
from promptbias.model.method import MethodConfig
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.trainers.bias_tuning import BiasTuningConfig
from promptbias.trainers.ivlp import IVLPConfig
from promptbias.trainers.zeroshot import ZeroshotConfig
from promptbias.utils.tensor_files import save_tensors

from .baseline import BaselineCLIP, BaselineWithBiases, BaselineWithPrompts, baseline_deletion, baseline_relevancy

BASELINE = "baseline"  # the name of the implementation that is not ours; ours is named by its precision
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
# Three narrow blocks, which show in seconds that a benchmark works; how fast it is, they do not show.
NARROW = dict(
    VIT_B16,
    embed_dim=32,
    image_resolution=32,
    vision_layers=3,
    vision_width=128,
    vision_patch_size=8,
    transformer_width=128,
    transformer_heads=2,
    transformer_layers=3,
)
SHAPES = {"ViT-B/16": VIT_B16, "narrow": NARROW}
TEMPLATE = "a photo of a {}."
LR = 0.0025  # learning rate


class Method(NamedTuple):
    """A tuning method: its configuration, prompts or biases in all blocks, and the same computation in the baseline."""

    config: MethodConfig
    baseline: type[BaselineCLIP]


class Case(NamedTuple):
    """One row of the table.

    Attributes:
        task: "train" is one step, "evaluate" all images in batches, "relevancy" all image-text pairs, "faithfulness"
            the deletion curves of all images.
        method: a key of METHODS.
        classes, images, batch: how many; image i belongs to class i modulo `classes`.
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
        if self.task == "faithfulness":
            return f"faithfulness of the maps of {self.images} images, {self.classes} classes"
        return f"relevancy of both towers, all blocks, {self.images} pairs"


METHODS = {
    "BiasTuning": Method(BiasTuningConfig(), BaselineWithBiases),
    "IVLP": Method(IVLPConfig(prompt_depth_vision=-1, prompt_depth_text=-1), BaselineWithPrompts),
    "ZeroshotCLIP": Method(ZeroshotConfig(), BaselineCLIP),
}
MAX_CLASSES = 1000
PROFILED = Case("train", "BiasTuning", 10, 32, 32)
STEPS = Case("train", "BiasTuning", 10, 4, 4)  # repeated, to see whether time or memory grows
CHECKPOINTED = "BiasTuning"
QUICK = [
    Case("train", "IVLP", 10, 4, 4),
    Case("evaluate", "BiasTuning", 10, 16, 8),
    Case("relevancy", "ZeroshotCLIP", 10, 1, 1),
]
# x axis (what is done) -> x -> case
SCALING: dict[str, dict[int, Case]] = {
    "classes (training step, 4 images)": {
        k: Case("train", "BiasTuning", k, 4, 4) for k in (10, 100, 1000, 5000, 20000)
    },
    "images in a batch (training step, 10 classes)": {b: Case("train", "BiasTuning", 10, b, b) for b in (1, 4, 16, 64)},
    "images (evaluation, 10 classes, batches of 50)": {
        n: Case("evaluate", "BiasTuning", 10, n, 50) for n in (50, 100, 200, 400)
    },
}


def all_cases(max_classes: int) -> list[Case]:
    """All rows of the table; `max_classes` is the number of classes for which a training step of the baseline fits into
    memory."""
    train = [
        Case("train", method, classes, batch, batch)
        for classes, batch in ((10, 32), (100, 4), (max_classes, 4))
        for method in ("BiasTuning", "IVLP")
    ]
    evaluate = [Case("evaluate", "BiasTuning", classes, 300, 100) for classes in (10, MAX_CLASSES)]
    maps = [Case("relevancy", "ZeroshotCLIP", 10, 32, 32), Case("faithfulness", "ZeroshotCLIP", 10, 2, 2)]
    return [*train, *evaluate, *maps]


def random_clip(shape: dict[str, int] = VIT_B16) -> Any:
    """A stock CLIP with random weights, the same ones every time."""
    torch.manual_seed(0)
    return import_clip()[1].CLIP(**shape).float().eval()


def make_classnames(classes: int) -> list[str]:
    """Class names of one to three words, as in the datasets of this family."""
    names = ["river", "old stone bridge", "annual crop land", "maple", "red fox"]
    return [f"{names[k % len(names)]} {k}" if k >= len(names) else names[k] for k in range(classes)]


def tuned_model(case: Case, clip_model: Any, precision: str, device: str) -> TunedCLIP:
    """Our model for a case."""
    torch.manual_seed(1)
    config = METHODS[case.method].config
    return TunedCLIP(clip_model, make_classnames(case.classes), config, TEMPLATE, precision, device)


def baseline_model(case: Case, clip_model: Any, device: str) -> BaselineCLIP:
    """The baseline for a case; its trainable parameters start from the same values as ours."""
    ours = tuned_model(case, clip_model, "fp32", device)
    return METHODS[case.method].baseline(clip_model, ours.text.tokens, *ours.adapters.parameters()).to(device)


def images_and_labels(case: Case, size: int, device: str) -> tuple[Tensor, Tensor]:
    """Random images (B, 3, size, size) and their classes (B,)."""
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(case.images, 3, size, size, generator=generator)
    return images.to(device), torch.arange(case.images, device=device) % case.classes


def prepare(case: Case, implementation: str, device: str, shape: dict[str, int] = VIT_B16) -> Callable[[], Tensor]:
    """Build the model of a case, and what there is to do with it.

    Args:
        implementation: BASELINE, or a precision of ours.

    Returns:
        A function that does the work once and returns the loss, the logits or the relevancies, on the device.
    """
    clip_model = random_clip(shape)
    image, label = images_and_labels(case, shape["image_resolution"], device)
    model: Any
    if implementation == BASELINE:
        model = baseline_model(case, clip_model, device)
        work = {
            "train": lambda: F.cross_entropy(model(image), label),
            "relevancy": lambda: torch.cat(baseline_relevancy(model.clip, image, model.tokens[label]), 1),
            "faithfulness": lambda: baseline_deletion(model.clip, image, label, model.tokens),
        }
    else:
        # Faithfulness is that of a float32 model; whatever it computes in bfloat16 is its own choice.
        precision = "fp32" if case.task == "faithfulness" else implementation
        model = tuned_model(case, clip_model, precision, device)
        work = {
            "train": lambda: model(image, label),
            "relevancy": lambda: torch.cat(relevancy(model, image, label), 1),
            "faithfulness": lambda: deletion_outcomes(model, image, label),
        }
    model.train(case.task == "train")
    if case.task == "train":
        return training_step(model, work["train"])
    if case.task == "evaluate":
        return evaluation(model, image.split(case.batch))
    return work[case.task]


def deletion_outcomes(model: TunedCLIP, image: Tensor, label: Tensor) -> Tensor:
    """Our deletion curves, as `baseline_deletion` returns them."""
    found = deletion_curves({"": model}, [(image, label)])[""]
    return torch.stack([torch.from_numpy(right) for right in found.values()])


def training_step(model: torch.nn.Module, compute_loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """A function that does one step of SGD, and returns the loss before it."""
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=LR, momentum=0.9, weight_decay=5e-4
    )

    def step() -> Tensor:
        loss = compute_loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def evaluation(model: torch.nn.Module, batches: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    """A function that returns the logits of all batches."""
    trainable = [p for p in model.parameters() if p.requires_grad]

    @torch.no_grad()
    def evaluate() -> Tensor:
        for parameter in trainable:
            parameter.add_(0)  # as after training: text features that our model has kept are out of date
        return torch.cat([model(batch) for batch in batches])

    return evaluate


def checkpoint_sizes(shape: dict[str, int] = VIT_B16) -> dict[str, int]:
    """Bytes of a checkpoint: of the whole CLIP in half precision, as public code saves it, and of our adapters."""
    case, clip_model = Case("train", CHECKPOINTED, 10, 1, 1), random_clip(shape)
    whole = io.BytesIO()
    torch.save(clip_model.half().state_dict(), whole)
    adapters = tuned_model(case, clip_model.float(), "fp32", "cpu").adapters
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.pth.tar-10")
        save_tensors({"state_dict": adapters.state_dict(), "epoch": 10}, path)
        return {BASELINE: whole.getbuffer().nbytes, "ours": os.path.getsize(path)}
