"""States of what a training draws from and is scheduled by, as plain data that `weights_only` loads."""

import random
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from promptbias.utils.contents import same_form


class RandomStates(msgspec.Struct):
    """The form of `random_states`, as each library has it."""

    python: tuple[int, tuple[int, ...], float | None]
    numpy: tuple[str, list[int], int, int, float]
    torch: Tensor
    cuda: list[Tensor]


def random_states() -> dict[str, Any]:
    """The state of every random generator that data order and augmentation draw from."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def set_random_states(states: dict[str, Any]) -> None:
    """The inverse of `random_states`.

    Raises:
        ValueError: they are not such states. Nothing is set then.
    """
    try:
        version, inner, gauss = states["python"]
        python = (version, tuple(inner), gauss)
        kind, keys, position, *rest = states["numpy"]
        numpy = (kind, np.array(keys, dtype=np.uint32), position, *rest)
        if not 0 <= position <= len(keys):  # numpy would read beyond them
            raise ValueError(f"there is no position {position}")
        random.Random().setstate(python)
        np.random.RandomState().set_state(numpy)
        torch.Generator().set_state(states["torch"])
        cuda = [torch.as_tensor(state, dtype=torch.uint8) for state in states["cuda"]]
    except Exception as error:  # each library refuses in its own way
        raise ValueError("the states of the random generators are damaged") from error
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(states["torch"])
    for device, state in zip(range(torch.cuda.device_count()), cuda):
        torch.cuda.set_rng_state(state, device)


def scheduler_state(scheduler: Any) -> dict[str, Any]:
    """A scheduler's state; Dassl's warm-up holds the live scheduler that follows it, whose state goes in."""
    plain = (int, float, str, list, dict, type(None))
    state: dict[str, Any] = {key: value for key, value in vars(scheduler).items() if isinstance(value, plain)}
    if hasattr(scheduler, "successor"):
        state["successor"] = scheduler_state(scheduler.successor)
    return state


def set_scheduler_state(scheduler: Any, state: dict[str, Any]) -> None:
    """The inverse of `scheduler_state`.

    Raises:
        ValueError: the state is not one of such a scheduler.
    """
    now = scheduler_state(scheduler)
    # Another version of torch may keep other private attributes.
    if not same_form({key: state.get(key, now[key]) if key.startswith("_") else state.get(key) for key in now}, now):
        raise ValueError("the state of the scheduler is not one of this scheduler")
    vars(scheduler).update({key: state[key] for key in now if key in state and key != "successor"})
    if "successor" in now:
        set_scheduler_state(scheduler.successor, state["successor"])
