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
from .consistency import check_consistency, divergence
from .encoder import TextTower, Tower, VisionTower
from .images import OPENAIS, Image, Preprocessing, default_preprocess, open_image, to_batch
from .method import MethodConfig
from .precision import DTYPES, resolve_precision
from .prediction import Prediction
from .prepacked_linear import is_traced, version_of
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
        open_image: a PIL image or the path of a file -> PIL image (RGB), how `predict` reads it.
        preprocess: PIL image (RGB) -> (3, S, S), what `predict` does to it.
        preprocessing: mean, standard deviation and interpolation of `preprocess`.

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
        check_consistency(method)
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
        self.open_image: Callable[[Image], Any] = open_image
        self.prepare_images(getattr(clip_model, "preprocessing", OPENAIS))
        self._encoded: tuple[object, Tensor | None] = (None, None)
        self._frozen_text: Tensor | None = None
        self.to(device)

    def prepare_images(self, how: Preprocessing) -> None:
        """Set `preprocess` and `preprocessing`."""
        self.preprocessing = how
        self.preprocess: Callable[[Any], Tensor] = default_preprocess(self.vision.visual.input_resolution, how)

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
        return self._encode(self.vision, image, self.adapters.vision)

    def text_features(self, which: Tensor | None = None) -> Tensor:
        """Unit vectors of all classes (K, joint width), or of the classes `which`, float32.

        Without gradients they are encoded once and kept until something that they depend on changes.
        """
        if torch.is_grad_enabled() or self.text.hooks is not None or is_traced():
            return self._encode(self.text, self.adapters.text, which)
        state = [version_of(p) for part in (self.adapters.text, self.clip) for p in part.parameters()]
        if self._encoded[0] != state:
            self._encoded = (state, self._encode(self.text, self.adapters.text))
        features = self._encoded[1]
        assert features is not None
        return features if which is None else features[which]

    @torch.no_grad()
    def frozen_image_features(self, image: Tensor) -> Tensor:
        """`image_features` of the CLIP that is tuned, as it was before."""
        return self._encode(self.vision, image, Adapter())

    @torch.no_grad()
    def frozen_text_features(self) -> Tensor:
        """`text_features` of the CLIP that is tuned, as it was before, with words where the method has prompts.

        They are encoded once.
        """
        if self._frozen_text is None:
            texts = fill(self.method.base_template(self.template), self.classnames)
            tower = TextTower(self.clip, tokenize(texts, self.classnames, self.context_length))
            self._frozen_text = self._encode(tower.to(self.logit_scale.device), Adapter())
        return self._frozen_text

    def _encode(self, tower: Tower, *args: Any) -> Tensor:
        with self.autocast():
            features = tower(*args)
        return F.normalize(features.float(), dim=-1)

    def logits(self, image: Tensor) -> Tensor:
        """Images (B, 3, S, S) -> logits (B, K), float32."""
        return self.logit_scale * self.image_features(image) @ self.text_features().t()

    def forward(self, image: Tensor, label: Tensor | None = None) -> Tensor:
        """Images (B, 3, S, S) -> logits (B, K); with the adapters in train mode, and labels (B,), the loss."""
        if not self.adapters.training:
            return self.logits(image)
        assert label is not None, "in train mode the loss needs labels"
        features, texts = self.image_features(image), self.text_features()
        loss = F.cross_entropy(self.logit_scale * features @ texts.t(), label)
        weight = self.method.consistency
        return loss + weight * divergence(self, image, features, texts) if weight else loss

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
        size = self.vision.visual.input_resolution
        batches = (to_batch(part, self.preprocess, size, self.open_image) for part in parts)
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
