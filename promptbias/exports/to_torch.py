"""torch.export: a program from images to logits that needs neither promptbias nor clip."""

import os
from collections.abc import Iterator

import torch

from .source import Source
from .target import Loaded, Target
from .traced import Classifier, program

PROGRAM = "model.pt2"


class ToTorch(Target):
    library = "torch.export"
    folds = False

    def write(self, source: Source, folder: str) -> None:
        example = source.pixels[:1].expand(2, -1, -1, -1)
        torch.export.save(program(Classifier(source.model), example), os.path.join(folder, PROGRAM))

    def load(self, source: Source, folder: str) -> Iterator[Loaded]:
        yield Loaded(torch.export.load(os.path.join(folder, PROGRAM)).module())

    def usage(self, source: Source) -> str:
        return (
            "import torch\n\n"
            f'model = torch.export.load("{PROGRAM}").module()\n'
            "logits = model(images)  # float32 (B, 3, S, S), see below -> (B, K)"
        )
