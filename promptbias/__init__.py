"""Tune CLIP with deep prompts or biases, and see what they do to it (arXiv 2312.11570v3).

    import promptbias

    model = promptbias.load("output/digits/BiasTuning/tiny_16shots/seed1")
    names, probabilities = model.predict(["three.png"])

Importing this package has no side effects and imports nothing heavy: what it offers is loaded when first used.
"""

import os

__version__ = "0.2.0"

_CHECKOUT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
if os.path.isfile(os.path.join(_CHECKOUT, "trainers", "bias_tuning.py")):
    # In a checkout the sub-packages trainers, analysis, datasets and tiny_clip lie beside this folder; in a wheel, in it.
    __path__.append(_CHECKOUT)
