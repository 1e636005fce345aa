"""What a checkpoint must hold to be used: its form, finite numbers, an optimizer's state that fits the optimizer."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import torch
from torch import Tensor

from promptbias.utils.errors import UserError

Finite = Annotated[float, msgspec.Meta(ge=-1e300, le=1e300)]
SCALARS = ("step", "mu", "eta", "mu_product")  # what torch's optimizers keep besides tensors of the parameter's shape
# Below this, the squares of a feature's thousands of values sum up in float32, as layer norm needs it.
LARGEST = 1e17


class ParameterGroup(msgspec.Struct):
    params: list[int]
    lr: Finite


class Optimizer(msgspec.Struct):
    """The state of an optimizer."""

    state: dict[int, dict[str, Any]]
    param_groups: list[ParameterGroup]


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


def same_form(found: Any, expected: Any) -> bool:
    """Whether two plain values have the same keys, lengths and kinds; the numbers that are found must be finite."""
    if isinstance(expected, dict):
        return isinstance(found, dict) and all(
            key in found and same_form(found[key], value) for key, value in expected.items()
        )
    if isinstance(expected, (list, tuple)):
        return isinstance(found, (list, tuple)) and len(found) == len(expected) and all(map(same_form, found, expected))
    if isinstance(expected, (int, float)) and not isinstance(expected, bool):
        largest = 1e300 if isinstance(found, float) else 2**31
        return isinstance(found, (int, float)) and not isinstance(found, bool) and abs(found) < largest
    return isinstance(found, (bool, str, type(None)))


def set_optimizer_state(optimizer: Any, state: dict[str, Any]) -> None:
    """`load_state_dict` that refuses what would only fail, or go wrong, in the first step.

    Raises:
        ValueError: the state is not one of such an optimizer.
    """
    for kept in state["state"].values():
        for name, value in kept.items():
            if not (isinstance(value, (Tensor, type(None))) or name in SCALARS and isinstance(value, (int, float))):
                raise ValueError(f"{name} of the optimizer is no tensor")
    groups = optimizer.state_dict()["param_groups"]
    # Another version of torch may have other options, for which the present ones serve.
    found = [{**group, **saved} for group, saved in zip(groups, state["param_groups"])]
    parameters = [group["params"] for group in groups]
    if [saved["params"] for saved in state["param_groups"]] != parameters or not same_form(found, groups):
        raise ValueError("its optimizer is not one of these parameters")
    if not set(state["state"]) <= {index for indices in parameters for index in indices}:
        raise ValueError("the optimizer keeps something of unknown parameters")
    optimizer.load_state_dict({"state": state["state"], "param_groups": found})
    for parameter, kept in optimizer.state.items():
        tensors = {name: torch.as_tensor(value) for name, value in kept.items() if value is not None}
        for name, value in tensors.items():
            if value.shape != parameter.shape and not (name in SCALARS and value.ndim == 0):
                raise ValueError(
                    f"{name} of the optimizer has shape {tuple(value.shape)}, not {tuple(parameter.shape)}"
                )
        problem = unusable(tensors.items(), largest=1e300)
        if problem:
            raise ValueError(f"of the optimizer, {problem}")
