"""Tune CLIP with deep prompts or biases, and see what they do to it (arXiv 2312.11570v3).

    import promptbias

    model = promptbias.load("output/digits/BiasTuning/tiny_16shots/seed1")
    names, probabilities = model.predict(["three.png"])

    with promptbias.capture(model.vision, "blocks.*.attn.pattern") as cache:
        model.image_features(image)

Importing this package has no side effects and imports nothing heavy: what it offers is loaded when first used.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

_CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if os.path.isfile(os.path.join(_CHECKOUT, "trainers", "bias_tuning.py")):
    # In a checkout trainers, analysis, datasets and tiny_clip lie beside this folder; in a wheel, inside.
    __path__.append(_CHECKOUT)

# Public name -> the module that defines it.
_PUBLIC = {
    "load": "promptbias.api",
    "tune": "promptbias.api",
    "build": "promptbias.api",
    "methods": "promptbias.api",
    "relevancy": "promptbias.api",
    "export": "promptbias.exports.export",
    "explain": "promptbias.analysis.explanation",
    "Explanation": "promptbias.analysis.explanation",
    "load_clip": "promptbias.model.loading",
    "TunedCLIP": "promptbias.model.tuned_clip",
    "Prediction": "promptbias.model.prediction",
    "MethodConfig": "promptbias.model.method",
    "Adapter": "promptbias.model.adapter",
    "Adapters": "promptbias.model.adapter",
    "capture": "promptbias.interp.cache",
    "gradients": "promptbias.interp.cache",
    "UserError": "promptbias.utils.errors",
}
__all__ = ["__version__", *_PUBLIC]

if TYPE_CHECKING:
    from .analysis.explanation import Explanation, explain
    from .api import build, load, methods, relevancy, tune
    from .exports.export import export
    from .interp.cache import capture, gradients
    from .model.adapter import Adapter, Adapters
    from .model.loading import load_clip
    from .model.method import MethodConfig
    from .model.prediction import Prediction
    from .model.tuned_clip import TunedCLIP
    from .utils.errors import UserError


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
