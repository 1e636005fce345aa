"""Why a model says what it says of one image: relevancy of patches and words, before and after tuning, and its worth.

explanation = promptbias.explain(model, "three.png", "a photo of the digit three.")
explanation  # in a notebook: the picture
explanation.save("three.pdf")
"""

import base64
import functools
import html
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image as pillow
from torch import Tensor

from promptbias.interp.image_text import RANDOM_ORDERS, ImageText, image_texts
from promptbias.model.images import to_batch
from promptbias.model.templates import fill
from promptbias.model.texts import with_texts
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.trainers.zeroshot import ZeroshotConfig
from promptbias.utils.errors import UserError
from promptbias.utils.files import atomic_write

from . import figures, pages
from .explanation_figure import draw

PLAIN = "CLIP"
SCREEN_DPI = 100  # in notebooks and pages
HOW_TO_READ = (
    "Relevancy is what speaks for the text in the image (as a map over the patches, 1 being the average patch) and in "
    "the text's own words (as shares); it is computed from attention and its gradients in all blocks. Maps of one text "
    "share a colour scale, and compare patches among themselves; what prompts take beside them is said below. The "
    "difference is red where tuning made a patch more relevant, and blue where less. What a map is worth is tested on "
    f"this image: patches are deleted, the most relevant first, and the score of image and text (logit scale times "
    f"cosine) is followed, against {RANDOM_ORDERS} random orders (mean ± standard deviation of the area under the "
    f"curve). A faithful map has a smaller area than nearly all of them; with about {RANDOM_ORDERS // 2} of "
    f"{RANDOM_ORDERS} it says no more than noise."
)


@dataclass(frozen=True)
class Explanation:
    """An image and a few texts, in plain CLIP and in the tuned model. A notebook shows it as a picture.

    Attributes:
        name: of the image.
        picture: (S, S, 3) from 0 to 1, as the model sees it.
        models: label -> for each text what the model makes of it; "CLIP" first, and alone if nothing was tuned.
        predicted: label -> (class, probability); empty if the model has no classes of its own.
    """

    name: str
    picture: np.ndarray
    models: dict[str, list[ImageText]]
    predicted: dict[str, tuple[str, float]]

    @property
    def texts(self) -> list[str]:
        """The texts, as they were given."""
        return [pair.text for pair in self.models[PLAIN]]

    def figure(self) -> Figure:
        """A row of maps for each text, and below it its words and the deletion curves."""
        return draw(self.picture, self.models, self.predicted)

    def headlines(self) -> list[tuple[str, float]]:
        """(what, value), for tables."""
        return [
            (f"{label}, “{pair.text}”: {what}", value)
            for label, pairs in self.models.items()
            for pair in pairs
            for what, value in pair.measured().items()
        ]

    def result(self, stem: str) -> figures.Result:
        """As a command of the analysis returns it."""
        arrays = {"picture": self.picture}
        for label, pairs in self.models.items():
            for pair in pairs:
                for what in ("patches", "word_shares", "deletion", "random"):
                    arrays[f"{label}, {pair.text}: {what}"] = getattr(pair, what)
        return figures.Result(HOW_TO_READ, self.headlines(), {stem: self.figure()}, arrays)

    def save(self, path: str | os.PathLike) -> None:
        """Write it to a file: .png, .pdf or .svg, or .html with how to read it and its numbers.

        Raises:
            UserError: another kind of file, or the folder cannot be written to.
        """
        extension = os.path.splitext(os.fspath(path))[1].lower()
        if extension == ".html":
            with atomic_write(path) as file:
                file.write(page(self.name, {}, [self]))
        elif extension in (".png", ".pdf", ".svg"):
            with atomic_write(path, "wb") as file, figures.theme():
                self.figure().savefig(file, format=extension[1:], dpi=figures.DPI)
        else:
            raise UserError(f"{os.fspath(path)}: an explanation is saved as .png, .pdf, .svg or .html")

    @functools.cached_property
    def png(self) -> bytes:
        """The picture for a screen, which notebooks and pages ask for more than once."""
        buffer = io.BytesIO()
        with figures.theme():
            self.figure().savefig(buffer, format="png", dpi=SCREEN_DPI)
        return buffer.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png

    def _repr_html_(self) -> str:
        return f'<img alt="{html.escape(self.name)}" src="{self.data_uri()}"><p>{HOW_TO_READ}</p>'

    def data_uri(self) -> str:
        """The picture as an address that holds it."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def page(title: str, facts: dict[str, str], explanations: Sequence[Explanation]) -> str:
    """A page of HTML that needs nothing else.

    Args:
        facts: what it is about, key -> value.
    """
    values = {"title": title, "facts": facts, "explanations": explanations, "how_to_read": HOW_TO_READ, "plain": PLAIN}
    return pages.render("explain.html.j2", **values)


def explain(model: Any, image: Any, text: str | Sequence[str] | None = None) -> Explanation:
    """Explain what a model makes of an image and a text, or several.

        promptbias.explain(promptbias.load("output/mine"), "some.jpg")

    Args:
        model: a tuned model; or a stock CLIP (see `load_clip`), which needs a text.
        image: a PIL image, the path of one, or a tensor (3, S, S) or (1, 3, S, S), preprocessed already.
        text: any texts, as they are, without a template; default: that of the class that the model predicts.

    Raises:
        UserError: a file that is not an image, a text that is longer than CLIP's context, or none for a stock CLIP.
    """
    texts = [text] if isinstance(text, str) else list(text or ())
    has_classes = isinstance(model, TunedCLIP)
    if not has_classes:
        if not texts:
            raise UserError("a CLIP without a run has no classes to choose a text from; give at least one text")
        model = TunedCLIP(model, texts, ZeroshotConfig(), "{}", "fp32").eval()
    batch = one_image(model, image)
    predicted = predictions(model, batch) if has_classes else {}
    texts = texts or class_texts(model, [list(predicted.values())[-1][0]])
    with model.base() as base:
        models = {PLAIN: image_texts(with_texts(base, texts), batch)}
    if model.method.trains:
        models[model.label] = image_texts(with_texts(model, texts), batch)
    name = os.path.basename(image) if isinstance(image, (str, os.PathLike)) else "image"
    return Explanation(name, picture(model, batch), models, predicted)


def one_image(model: TunedCLIP, image: Any) -> Tensor:
    """An image as the model takes it, (1, 3, S, S)."""
    if isinstance(image, Tensor) and image.ndim == 3:
        image = image[None]
    size = model.vision.visual.input_resolution
    return to_batch(image, model.preprocess, size, model.open_image).to(model.logit_scale.device)


def class_texts(model: TunedCLIP, classnames: Sequence[str]) -> list[str]:
    """The texts of classes in words: in place of prompts stand the words that they stand for."""
    return fill(model.method.base_template(model.template), classnames)


@torch.no_grad()
def predictions(model: TunedCLIP, batch: Tensor) -> dict[str, tuple[str, float]]:
    """Label -> the most probable class of an image (1, 3, S, S) and its probability; "CLIP" first."""
    with model.base() as base:
        models = {PLAIN: with_texts(base, class_texts(model, model.classnames))}
    if model.method.trains:
        models[model.label] = model
    found = {}
    for label, one in models.items():
        probabilities = one.logits(batch).softmax(-1)[0]
        found[label] = model.classnames[int(probabilities.argmax())], float(probabilities.max())
    return found


def picture(model: TunedCLIP, batch: Tensor) -> np.ndarray:
    """A preprocessed image (1, 3, S, S) as it looks: (S, S, 3), from 0 to 1."""
    size = batch.shape[-1], batch.shape[-2]
    # Whatever mean and standard deviation the preprocessing takes: they show in what it makes of black and white.
    black, white = (model.preprocess(pillow.new("RGB", size, colour)).to(batch.device) for colour in ("black", "white"))
    if bool((black == white).all()):  # each image by its own mean: the colours are lost
        black, white = batch.min(), batch.max()
    return ((batch[0] - black) / (white - black)).clamp(0, 1).permute(1, 2, 0).cpu().numpy()
