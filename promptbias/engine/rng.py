"""States of what a training draws from and is scheduled by, as plain data that `weights_only` loads."""

import random
from typing import Any

import numpy as np
import torch


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
    """The inverse of `random_states`."""
    version, inner, gauss = states["python"]
    random.setstate((version, tuple(inner), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"])


def scheduler_state(scheduler: Any) -> dict[str, Any]:
    """A scheduler's state; Dassl's warm-up holds the live scheduler that follows it, whose state goes in."""
    plain = (int, float, str, list, dict, type(None))
    state: dict[str, Any] = {key: value for key, value in vars(scheduler).items() if isinstance(value, plain)}
    if hasattr(scheduler, "successor"):
        state["successor"] = scheduler_state(scheduler.successor)
    return state


def set_scheduler_state(scheduler: Any, state: dict[str, Any]) -> None:
    """The inverse of `scheduler_state`."""
    vars(scheduler).update({key: value for key, value in state.items() if key != "successor"})
    if "successor" in state:
        set_scheduler_state(scheduler.successor, state["successor"])
