"""ONNX: images to logits with the classes inside, or an image and a text encoder."""

import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from .source import Source
from .target import Loaded, Target
from .traced import Classifier, ImageEncoder, TextEncoder, program

OPSET = 18
MODEL, IMAGE_ENCODER, TEXT_ENCODER = "model.onnx", "image_encoder.onnx", "text_encoder.onnx"


def save(module: nn.Module, example: Tensor, input_name: str, output_name: str, path: str) -> None:
    """A module of one input, with a dynamic first axis, as an ONNX file of opset OPSET."""
    names: dict[str, Any] = {"input_names": [input_name], "output_names": [output_name]}
    converted = torch.onnx.export(program(module, example), dynamo=True, opset_version=OPSET, verbose=False, **names)
    assert converted is not None
    converted.save(path)


def session(path: str) -> Any:
    """A function of one array that runs an ONNX file on the CPU."""
    import onnxruntime

    runtime = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (entry,) = runtime.get_inputs()
    return lambda tensor: torch.from_numpy(runtime.run(None, {entry.name: tensor.numpy()})[0])


class ToONNX(Target):
    library = "onnxruntime"
    needs = {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"}
    folds = False

    def write(self, source: Source, folder: str) -> None:
        example = source.pixels[:1].expand(2, -1, -1, -1)
        save(Classifier(source.model), example, "image", "logits", os.path.join(folder, MODEL))

    def load(self, source: Source, folder: str) -> Iterator[Loaded]:
        yield Loaded(session(os.path.join(folder, MODEL)))

    def usage(self, source: Source) -> str:
        return (
            "import onnxruntime\n\n"
            f'session = onnxruntime.InferenceSession("{MODEL}")  # opset {OPSET}\n'
            '(logits,) = session.run(None, {"image": images})  # float32 (B, 3, S, S), see below -> (B, K)'
        )


class ToTwoTowers(ToONNX):
    """Two files, for texts that are not known yet."""

    folds = True

    def write(self, source: Source, folder: str) -> None:
        images = source.pixels[:1].expand(2, -1, -1, -1)
        texts = source.model.text.tokens[:1].expand(2, -1)
        save(ImageEncoder(source.model), images, "image", "features", os.path.join(folder, IMAGE_ENCODER))
        save(TextEncoder(source.model), texts, "tokens", "features", os.path.join(folder, TEXT_ENCODER))

    def load(self, source: Source, folder: str) -> Iterator[Loaded]:
        of_images, of_texts = (session(os.path.join(folder, name)) for name in (IMAGE_ENCODER, TEXT_ENCODER))
        classes = source.model.logit_scale * of_texts(source.model.text.tokens).t()
        yield Loaded(lambda pixels: of_images(pixels) @ classes)

    def usage(self, source: Source) -> str:
        scale, length = f"{float(source.model.logit_scale):.6g}", source.model.context_length
        return (
            "import onnxruntime\n\n"
            f'images = onnxruntime.InferenceSession("{IMAGE_ENCODER}")  # opset {OPSET}\n'
            f'texts = onnxruntime.InferenceSession("{TEXT_ENCODER}")\n'
            '(f,) = images.run(None, {"image": image})  # float32 (B, 3, S, S), see below -> unit vectors\n'
            f'(g,) = texts.run(None, {{"tokens": tokens}})  # int64 (K, {length}), as clip.tokenize gives them\n'
            f"logits = {scale} * f @ g.T"
        )
