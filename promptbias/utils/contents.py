"""What a file of tensors must hold to be used."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from torch import Tensor

from promptbias.utils.errors import UserError

# Below this, the squares of a feature's thousands of values sum up in float32, as layer norm needs it.
LARGEST = 1e17


def check_form(contents: Any, schema: Any, path: str) -> None:
    """Refuse contents of a file that are not as a msgspec schema says.

    Raises:
        UserError: they are not; says where.
    """

    def hide(value: Any, levels: int = 5) -> Any:  # msgspec would take a tensor for a mapping
        if isinstance(value, Tensor):
            return _Hidden(value)
        if levels and isinstance(value, dict):
            return {key: hide(inner, levels - 1) for key, inner in value.items()}
        return [hide(inner, levels - 1) for inner in value] if levels and isinstance(value, (list, tuple)) else value

    def reveal(kind: type, value: Any) -> Tensor:
        if kind is Tensor and isinstance(value, _Hidden):
            return value.tensor
        raise TypeError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")

    try:
        msgspec.convert(hide(contents), schema, dec_hook=reveal)
    except msgspec.ValidationError as error:
        raise UserError(f"{path} does not hold what training wrote ({error}); train again, or give another") from error


@dataclass
class _Hidden:
    tensor: Tensor


def unusable(tensors: Iterable[tuple[str, Tensor]], largest: float = LARGEST) -> str:
    """What is wrong with the first of some named tensors that holds NaN, infinity or an absurdly large value; or ""."""
    for name, tensor in tensors:
        if tensor.numel() and (tensor.is_floating_point() or tensor.is_complex()):
            size = tensor.detach().abs().max().item()
            if not size <= largest:
                return (
                    f"{name} holds {'values that are not numbers' if math.isnan(size) else f'a value of size {size:g}'}"
                )
    return ""
