"""A frozen CLIP for one list of classes, with what a method trains attached to its two towers."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from promptbias.utils.errors import UserError

from .adapter import Adapter, Adapters
from .encoder import TextTower, VisionTower
from .images import Image, default_preprocess, to_batch
from .method import MethodConfig
from .precision import DTYPES, resolve_precision
from .prediction import Prediction
from .prepacked_linear import version_of
from .templates import GENERIC, fill, tokenize, validate_template


class TunedCLIP(nn.Module):
    """logits = exp(logit_scale) cos(f, g_k), with f and g_k from the tuned towers (eqs. 9 and 11 of the paper).

        model = TunedCLIP(promptbias.load_clip("tiny"), ["cat", "dog"], BiasTuningConfig(depth_text=0))

    The given CLIP is frozen and converted, in place, to the dtype of `precision`; what is trained stays float32.

    Args:
        clip_model: a stock CLIP with a ViT.
        classnames: K names.
        method: what is trained.
        template: text with one {} for the class name; methods with a text of their own ignore it.
        precision: fp32, fp16, bf16, amp or auto.
        device: where the model goes; None leaves it where CLIP is.

    Attributes:
        vision, text: the towers, to be hooked (see `hooks`) or called.
        adapters: what is trained, `.vision` and `.text`.
        clip: the stock CLIP.
        preprocess: PIL image (RGB) -> (3, S, S), what `predict` does to an image.

    Raises:
        UserError: CLIP is not a ViT of OpenAI's, options that do not fit it, a text that is too long, no such
            precision.
    """

    logit_scale: Tensor

    def __init__(
        self,
        clip_model: Any,
        classnames: Sequence[str],
        method: MethodConfig,
        template: str | None = None,
        precision: str = "auto",
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if not hasattr(clip_model.visual, "transformer"):
            raise UserError("this CLIP has a ResNet, but prompts and block biases need a ViT, such as ViT-B/16")
        if not classnames:
            raise UserError("no class is named; give at least one class name")
        device = torch.device(device or clip_model.logit_scale.device)
        self.precision = resolve_precision(precision, device.type)
        self.register_buffer("logit_scale", clip_model.logit_scale.detach().float().exp(), persistent=False)
        clip_model.to(DTYPES[self.precision]).requires_grad_(False)
        self.method = method
        self.classnames = list(classnames)
        self.template = method.template_for(validate_template(template or GENERIC, "the template"))
        self.context_length: int = clip_model.positional_embedding.shape[0]
        texts = fill(self.template, self.classnames)
        self.vision = VisionTower(clip_model)
        self.text = TextTower(clip_model, tokenize(texts, self.classnames, self.context_length))
        self.adapters = method.adapters(self.vision, self.text)
        own = {id(parameter) for parameter in self.adapters.parameters()}
        if any(id(parameter) in own for parameter in clip_model.parameters()):
            raise TypeError(f"{type(method).__name__} trains parameters of CLIP itself; attach to them by their names")
        self.preprocess: Callable[[Any], Tensor] = default_preprocess(clip_model.visual.input_resolution)
        self._encoded: tuple[object, Tensor | None] = (None, None)
        self.to(device)

    @property
    def clip(self) -> Any:
        """The stock CLIP, untouched."""
        return self.text.clip

    @property
    def label(self) -> str:
        """What it is called in figures."""
        return self.method.label(self)

    @contextlib.contextmanager
    def base(self) -> Iterator["TunedCLIP"]:
        """The CLIP that was tuned, as it was before: the method is disabled while the context lasts. The text stays."""
        adapters = self.adapters
        self.disable_adapters()
        try:
            yield self
        finally:
            self.adapters = adapters

    def autocast(self) -> AbstractContextManager:
        """Autocast where the precision is "amp"."""
        device = self.logit_scale.device.type
        dtype = torch.float16 if device == "cuda" else torch.bfloat16
        return torch.autocast(device, dtype=dtype, enabled=self.precision == "amp")

    def image_features(self, image: Tensor) -> Tensor:
        """Images (B, 3, S, S) -> unit vectors (B, joint width), float32."""
        with self.autocast():
            features = self.vision(image, self.adapters.vision)
        return F.normalize(features.float(), dim=-1)

    def text_features(self, which: Tensor | None = None) -> Tensor:
        """Unit vectors of all classes (K, joint width), or of the classes `which`, float32.

        Without gradients they are encoded once and kept until something that they depend on changes.
        """
        if torch.is_grad_enabled() or self.text.hooks is not None:
            return self._encode_text(which)
        state = [version_of(p) for part in (self.adapters.text, self.clip) for p in part.parameters()]
        if self._encoded[0] != state:
            self._encoded = (state, self._encode_text())
        features = self._encoded[1]
        assert features is not None
        return features if which is None else features[which]

    def _encode_text(self, which: Tensor | None = None) -> Tensor:
        with self.autocast():
            features = self.text(self.adapters.text, which)
        return F.normalize(features.float(), dim=-1)

    def logits(self, image: Tensor) -> Tensor:
        """Images (B, 3, S, S) -> logits (B, K), float32."""
        return self.logit_scale * self.image_features(image) @ self.text_features().t()

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """Images (B, 3, S, S) -> logits (B, K); with the adapters in train mode, and labels (B,), the loss."""
        logits = self.logits(image)
        if not self.adapters.training:
            return logits
        assert label is not None, "in train mode the loss needs labels"
        return F.cross_entropy(logits, label)

    @torch.no_grad()
    def predict(self, images: Image | Sequence[Image] | Tensor, batch_size: int = 64) -> Prediction:
        """The classes of images.

        Args:
            images: one or more PIL images or paths of image files; or a tensor (B, 3, S, S), preprocessed already.
            batch_size: images at a time; no result depends on it.

        Raises:
            UserError: a file that is not an image, or a tensor of another shape.
        """
        given: Sequence[Image] = ()
        if isinstance(images, Tensor):
            parts: Sequence[Any] = [images]
        else:  # files are opened one batch at a time, so that memory does not grow with their number
            given = images if isinstance(images, Sequence) and not isinstance(images, str) else [images]
            parts = [given[i : i + batch_size] for i in range(0, len(given) or 1, batch_size)]
        batches = (to_batch(part, self.preprocess, self.vision.visual.input_resolution) for part in parts)
        device = self.logit_scale.device
        logits = torch.cat([self.logits(some.to(device)) for batch in batches for some in batch.split(batch_size)])
        probabilities = logits.softmax(-1)
        names = [self.classnames[k] for k in probabilities.argmax(-1).tolist()]
        return Prediction(names, probabilities, self.classnames, given)

    def fold(self) -> Any:
        """Merge what was trained into the stock CLIP, which then is the tuned model and is returned.

        Raises:
            UserError: the method does not fold.
        """
        if not self.method.folds:
            raise UserError(f"{self.label} does not fold into a stock CLIP: it needs its own forward pass")
        self.adapters.vision.fold(self.vision)
        self.adapters.text.fold(self.text)
        self.disable_adapters()
        return self.clip

    def disable_adapters(self) -> None:
        self.adapters = Adapters(Adapter(), Adapter()).train(self.adapters.training)
