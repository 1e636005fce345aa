"""Do the maps tell the truth?

Patches are removed in the order of a map, the most relevant first or the least relevant first, and the accuracy is
followed. A truthful map makes the first curve fall early and the second one late; an order by chance lies between.
Removed means: the patch's token is dropped from the sequence, after the positional embedding. The maps are relevancy
and, as a simple rival, the attention of [cls] in the last block, mean over heads. Relevancy of the image's own class
is told the answer, which attention is not: to keep what speaks for the right class can even raise the accuracy. So
relevancy of the class that the model itself predicts is a map of its own.
"""

import argparse
import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from promptbias.interp.relevancy import relevancy
from promptbias.model.encoder import Tap, Tuner
from promptbias.model.tuned_clip import TunedCLIP

from . import figures
from .decompose import ImageBranch
from .run import Study

FRACTIONS = tuple(step / 10 for step in range(11))  # of the patches removed
MAPS = {
    "own class": "relevancy, own class",
    "predicted class": "relevancy, predicted class",
    "attention": "attention of [cls], last block",
}


class Without(Tuner):
    """A tuner on image tokens of which only `rows` (B, n) are left, [cls] first. Prompts then stand further ahead."""

    def __init__(self, tuner: Tuner, rows: Tensor, patches: int) -> None:
        super().__init__()
        gone = 1 + patches - rows.shape[1]
        at = tuner.prompts_at
        self.tuner, self.rows = copy.copy(tuner), rows
        if at.stop > at.start:
            self.tuner.prompts_at = slice(at.start - gone, at.stop - gone)

    def start(self, x: Tensor) -> Tensor:
        return self.tuner.start(x.gather(1, self.rows[..., None].expand(-1, -1, x.shape[-1])))

    def before(self, i: int, x: Tensor) -> Tensor:
        return self.tuner.before(i, x)

    def after(self, i: int, x: Tensor) -> Tensor:
        return self.tuner.after(i, x)

    def read_after(self, i: int) -> slice:
        return self.tuner.read_after(i)


class LastAttention(Tap):
    """Keeps what [cls] gives to every token in the last block it sees, mean over heads: `attention` (B, N)."""

    def attend(self, i, q, k, v, mask):
        self.attention = self.weights(q[..., :1, :], k, mask).mean(1)[:, 0]
        return super().attend(i, q, k, v, mask)


def raw_attention(branch: ImageBranch, image: Tensor) -> Tensor:
    """Head-mean attention of [cls] to the patches in the last block, (B, M)."""
    tap = LastAttention()
    branch.features(image, tap)
    return tap.attention[:, 1 : 1 + branch.tower.patches]


def orders(maps: dict[str, Tensor], by_chance: Tensor) -> dict[tuple[str, str], Tensor]:
    """Orders of removal (B, M) for maps (B, M): (name, "most") and (name, "least") relevant first; and by chance."""
    ordered = {("chance", ""): by_chance}
    for name, values in maps.items():
        ordered[name, "most"] = values.argsort(dim=1, descending=True, stable=True)
        ordered[name, "least"] = values.argsort(dim=1, stable=True)
    return ordered


def by_chance(image: Tensor, patches: int, chance: torch.Generator) -> Tensor:
    """Orders by chance (B, M) for a batch of images, drawn image by image, so that none depends on the batch size."""
    return torch.stack([torch.randperm(patches, generator=chance) for _ in image]).to(image.device)


@torch.no_grad()
def hits_without(
    model: TunedCLIP, image: Tensor, label: Tensor, order: Tensor, texts: Tensor, fractions: Sequence[float] = FRACTIONS
) -> Tensor:
    """Number of images that are right after removing each of `fractions` of their patches in `order` (B, M): (F,)."""
    branch, patches = ImageBranch(model), order.shape[1]
    hits = []
    for fraction in fractions:
        stay = 1 + order[:, round(fraction * patches) :]
        rows = torch.cat([torch.zeros_like(order[:, :1]), stay], 1)
        features = branch.features(image, tuner=Without(branch.tuner, rows, patches))
        hits.append(((features @ texts.T).argmax(-1) == label).sum())
    return torch.stack(hits).cpu()


def area(curve: Sequence[float]) -> float:
    """Area under an accuracy curve over FRACTIONS, by the trapezoid rule: the mean accuracy along the removal."""
    steps = [b - a for a, b in zip(FRACTIONS, FRACTIONS[1:])]
    return sum(step * (a + b) / 2 for step, a, b in zip(steps, curve, curve[1:]))


def maps_of(model: TunedCLIP, image: Tensor, label: Tensor) -> dict[str, Tensor]:
    """MAPS of a batch, (B, M) each."""
    branch, patches = ImageBranch(model), model.vision.patches
    with torch.no_grad():
        predicted = model(image).argmax(-1)
    return {
        "own class": relevancy(model, image, label)[0][:, :patches],
        "predicted class": relevancy(model, image, predicted)[0][:, :patches],
        "attention": raw_attention(branch, image),
    }


def curves(study: Study, seed: int = 0) -> dict[str, dict[tuple[str, str], np.ndarray]]:
    """Accuracy in % at FRACTIONS of the patches removed: model -> (map, "most" or "least"), ("chance", "") -> (F,)."""
    chance = torch.Generator().manual_seed(seed)
    texts = {name: model.text_features() for name, model in study.models.items()}
    hits: dict[str, dict[tuple[str, str], Tensor]] = {name: {} for name in study.models}
    for image, label in study.batches("truth"):
        drawn = by_chance(image, study.plain.vision.patches, chance)  # the same for all models
        for name, model in study.models.items():
            ordered = orders(maps_of(model, image, label), drawn)
            # All patches or none: there the order does not matter.
            whole, empty = hits_without(model, image, label, ordered["chance", ""], texts[name], (0, 1))
            for key, order in ordered.items():
                between = hits_without(model, image, label, order, texts[name], FRACTIONS[1:-1])
                hits[name][key] = hits[name].get(key, 0) + torch.cat([whole[None], between, empty[None]])
    return {name: {key: 100 * n.numpy() / len(study) for key, n in by_key.items()} for name, by_key in hits.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(study: Study, args: argparse.Namespace) -> figures.Result:
    """Curves and areas of every model of the study."""
    result = figures.Result(
        "Patches are removed from every image in the order of a map, and the accuracy is followed. Filled marks: the"
        " most relevant first, where a truthful map makes the accuracy fall early; open marks: the least relevant "
        "first, where it stays long. Grey: in an order by chance. The wider the two curves lie apart, the more the "
        "map knows. Relevancy of the image's own class is told the answer, so that the accuracy can even rise; "
        "relevancy of the class that the model itself predicts is not, and neither is what [cls] gives to the "
        "patches in the last block (mean over heads). Removed patches are dropped from the sequence after the "
        "positional embedding; with all of them gone, [cls] is left, and prompts where there are some."
    )
    measured = curves(study)
    for name, by_key in measured.items():
        areas = {key: area(curve) for key, curve in by_key.items()}
        for what, title in MAPS.items():
            result.headlines += [
                (f"{name}, {title}, most relevant first: area, mean accuracy in %", areas[what, "most"]),
                (f"{name}, {title}, least relevant first: area, mean accuracy in %", areas[what, "least"]),
                (f"{name}, {title}: distance of the two areas", areas[what, "least"] - areas[what, "most"]),
            ]
        result.headlines.append((f"{name}, order by chance: area, mean accuracy in %", areas["chance", ""]))
        result.numbers.update({" ".join((name, *key)).strip(): curve for key, curve in by_key.items()})
    result.numbers["fractions"] = np.array(FRACTIONS)
    result.figures["truth"] = plot(measured)
    return result


def plot(measured: dict[str, dict[tuple[str, str], np.ndarray]]) -> figures.Figure:
    """A row per model, a column per map."""
    figure, axes = figures.subplots(len(measured), len(MAPS), height=1.9, sharex=True, sharey=True)
    x = [100 * fraction for fraction in FRACTIONS]
    for index, (row, (name, by_key)) in enumerate(zip(axes, measured.items())):
        style = figures.look(index)
        for ax, (what, title) in zip(row, MAPS.items()):
            most, least = by_key[what, "most"], by_key[what, "least"]
            ax.fill_between(x, most, least, color=style["color"], alpha=0.1, linewidth=0)
            ax.plot(x, by_key["chance", ""], color="#888888", linewidth=1, label="by chance")
            ax.plot(x, most, **style, label="most relevant first")
            ax.plot(x, least, **style, markerfacecolor="white", label="least relevant first")
            if index == 0:
                ax.set_title(title)
        row[0].set_ylabel(f"{figures.wrapped(name)}\naccuracy (%)")
    for ax in axes[-1]:
        ax.set_xlabel("patches removed (%)")
    axes[0, 0].set_ylim(bottom=0)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
