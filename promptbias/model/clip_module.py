"""The `clip` module: OpenAI's package, or the `clip/` folder of a CoOp checkout."""

import warnings
from typing import Any

from promptbias.utils.errors import UserError


def import_clip() -> tuple[Any, Any]:
    """`clip.clip` and `clip.model`.

    Raises:
        UserError: there is none, or it cannot be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # clip-anytorch imports pkg_resources, which warns at length
            from clip import clip, model
        return clip, model
    except ImportError as error:
        raise UserError(
            f"CLIP cannot be imported ({error}); pip install clip-anytorch 'setuptools<81', "
            "or run inside a CoOp checkout, which has it in its folder clip/"
        ) from error
