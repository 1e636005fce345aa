"""What a model says of images, and how a notebook shows it."""

import base64
import html
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .images import open_image

SHOWN_IMAGES = 20  # in a notebook
SHOWN_CLASSES = 5  # of each
THUMBNAIL = 64  # pixels


@dataclass(frozen=True)
class Prediction:
    """The classes of B images. `names, probabilities = prediction` takes it apart; a notebook shows it as a table.

    Attributes:
        names: the most probable class of each image.
        probabilities: (B, K), of all classes.
        classnames: the K classes.
        images: the images as they were given, PIL images or paths; empty where they came as a tensor.
    """

    names: list[str]
    probabilities: Tensor
    classnames: Sequence[str] = ()
    images: Sequence[Any] = field(default=(), repr=False)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.names, self.probabilities))

    def __len__(self) -> int:
        return len(self.names)

    def top(self, count: int) -> list[list[tuple[str, float]]]:
        """Of each image the `count` most probable classes (all, where there are fewer), as (class, probability)."""
        values, indices = self.probabilities.topk(min(count, self.probabilities.shape[1]))
        return [
            [(self.classnames[k], value) for k, value in zip(of_image, of_image_values)]
            for of_image, of_image_values in zip(indices.tolist(), values.tolist())
        ]

    def _repr_html_(self) -> str:
        shown = self.top(SHOWN_CLASSES)[:SHOWN_IMAGES]
        rows = [
            f"<tr><td>{thumbnail(self.images[i]) if self.images else i}</td><td>{bars(classes)}</td></tr>"
            for i, classes in enumerate(shown)
        ]
        more = f"<p>… and {len(self) - len(shown)} more</p>" if len(self) > len(shown) else ""
        return f"<table>{''.join(rows)}</table>{more}"


def thumbnail(image: Any) -> str:
    """A small picture as HTML, with its path, where it has one, as the title."""
    picture, buffer = open_image(image).copy(), io.BytesIO()
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    picture.save(buffer, format="PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    title = html.escape(os.fspath(image)) if isinstance(image, (str, os.PathLike)) else ""
    # Images smaller than a thumbnail are enlarged by the browser.
    return f'<img src="data:image/png;base64,{data}" title="{title}" style="width: {THUMBNAIL}px">'


def bars(classes: list[tuple[str, float]]) -> str:
    """Classes with their probabilities as a bar chart in HTML."""
    bar = "display: inline-block; height: 0.7em; background: #1f4e9e; margin-right: 0.4em"
    rows = [
        f'<div style="text-align: left"><span style="{bar}; width: {10 * probability:.2f}em"></span>'
        f"{html.escape(name)} {100 * probability:.1f} %</div>"
        for name, probability in classes
    ]
    return "".join(rows)
