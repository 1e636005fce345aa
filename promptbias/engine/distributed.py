"""Training by the processes that `torchrun` started: each takes its share of every batch, and the first one writes.

All go through the same motions: they draw the same random numbers, read the same batches of which each computes a
share, and average the gradients of what is trained (DistributedDataParallel). What they learn is what one process
learns, up to rounding. Test batches are dealt out in turn, and their logits are exchanged, so that every process sees
the whole test set. Without torchrun all of this does nothing.
"""

import contextlib
import gc
import os
import re
import signal
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, default_collate

from promptbias.utils.errors import UserError

from .rng import random_states, set_random_states

LOST = "another process of this training ended; the same command resumes from the last finished epoch"
# What torch says where the connection to another process broke.
BROKEN = re.compile("gloo|nccl|connection|peer|timed out|socket", re.IGNORECASE)


def launched() -> bool:
    """Whether torchrun started this process beside others."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_writer() -> bool:
    """Whether this process writes files and prints."""
    return rank() == 0


# The processes


@contextlib.contextmanager
def processes() -> Iterator[None]:
    """Meet the other processes that torchrun started, for as long as the context lasts.

    Only the first one prints. When one fails or is killed, one of the others says so, in one line, and all end.

    Raises:
        UserError: another process ended; or torchrun started more processes than there are GPUs.
    """
    if not launched():
        yield
        return
    choose_device()
    store, number, count = next(iter(dist.rendezvous("env://")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, store=store, rank=number, world_size=count)
        with only_the_first_prints():
            yield
    except BaseException as error:
        if not isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun's, which now comes too late
        if not first_to_say(store):
            raise SystemExit(1) from None
        if isinstance(error, RuntimeError) and BROKEN.search(str(error)):
            raise UserError(LOST) from error
        raise
    wait_for_all()  # a process that leaves while another writes may abort
    gc.collect()  # what DistributedDataParallel keeps has to go before its process group does
    dist.destroy_process_group()


def choose_device() -> None:
    """Let this process see one GPU, its own, so that "cuda" means it everywhere.

    Raises:
        UserError: there are fewer GPUs than processes on this machine.
    """
    named, local = os.environ.get("CUDA_VISIBLE_DEVICES"), int(os.environ["LOCAL_RANK"])
    count = torch.cuda.device_count()  # what is named need not be there: -1 hides all, and a CPU machine has none
    devices = named.split(",")[:count] if named else [str(i) for i in range(count)]
    if devices and local >= len(devices):
        raise UserError(
            f"torchrun started process {local + 1} of this machine, which has {len(devices)} GPUs; use "
            f"--nproc_per_node {len(devices)}, or set CUDA_VISIBLE_DEVICES to nothing to train on the CPU"
        )
    if devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[local]


@contextlib.contextmanager
def only_the_first_prints() -> Iterator[None]:
    """Throw away what the other processes print, their progress bars included."""
    if is_writer():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        yield


def first_to_say(store: Any) -> bool:
    """Whether no other process has said yet why all of them end."""
    try:
        return store.add("promptbias/said", 1) == 1
    except RuntimeError:  # torchrun, which keeps the store, is gone
        return True


def broadcast(value: Any) -> Any:
    """The first process's value of a picklable object, in every process."""
    if world() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


@contextlib.contextmanager
def writer_first() -> Iterator[None]:
    """Let the first process go first through what may write files, such as the split of a dataset."""
    if not is_writer():
        wait_for_all()
    yield
    if is_writer():
        wait_for_all()


def wait_for_all() -> None:
    """Wait until every process is here."""
    if world() > 1:
        dist.barrier()


def agree_on_random_states() -> None:
    """Put the first process's random states into all."""
    if world() > 1:
        set_random_states(broadcast(random_states()))


# Training


class SharedStep:
    """The training step of a model that several processes share; of one process alone, the model's own.

    The loss of a batch of B images is a mean over images, plus terms that are the same in every process. So the sum
    over processes of (b / B) loss(share), with b images in a share, is the loss of the batch, whatever the remainder.
    A process whose share is empty computes one image's loss with weight 0, since all have to take part.

    Args:
        model: a TunedCLIP on its device, whose parameters are the first process's from now on.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model: Callable[[Tensor, Tensor], Tensor] = model
        self.dropout = WholeBatchDropout()
        if world() > 1:
            # Adapters have no forward pass of their own, so the whole model is wrapped; what is frozen has no gradient.
            # Some methods' parameters may go unused in a step; that torch looked for them in vain is no news.
            warnings.filterwarnings("ignore", message="find_unused_parameters=True|.broadcast_buffers. is deprecated")
            self.model = nn.parallel.DistributedDataParallel(
                model, broadcast_buffers=False, find_unused_parameters=True
            )
            vision: Any = model.vision
            vision.register_forward_pre_hook(lambda *_: self.dropout.__enter__() and None)
            vision.register_forward_hook(lambda *_: self.dropout.__exit__(None, None, None))

    def take(self, batch: dict[str, Any]) -> tuple[dict[str, Any], float]:
        """This process's share of a batch, and its weight b / B."""
        if world() == 1:
            return batch, 1.0
        total = len(batch["label"])
        part = slice(rank() * total // world(), (rank() + 1) * total // world())
        weight = (part.stop - part.start) / total
        part = part if weight else slice(0, 1)
        self.dropout.total, self.dropout.part = total, part
        return {key: value[part] for key, value in batch.items()}, weight

    def backward(self, loss: Tensor) -> None:
        """Gradients of the weighted loss, summed over processes: DistributedDataParallel divides by their number."""
        (loss * world() if world() > 1 else loss).backward()


class WholeBatchDropout(TorchFunctionMode):
    """Dropout of images' tokens as one process draws it: for the whole batch, of which a process keeps its part.

    Attributes:
        total: images in the batch.
        part: those of this process.
    """

    total, part = 0, slice(0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.dropout:
            return func(*args, **(kwargs or {}))
        return self.draw(*args, **(kwargs or {}))

    def draw(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        """As `F.dropout` of (b, ...)."""
        if not training or not p:
            return input
        whole = F.dropout(input.new_ones(self.total, *input.shape[1:]), p)
        return input * whole[self.part]


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of a tensor over all processes."""
    if world() > 1:
        dist.all_reduce(values)
    return values


# Testing


class EveryNth:
    """The batches of a sampler that are this process's turn."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return islice(iter(self.batches), rank(), None, world())

    def __len__(self) -> int:
        return len(range(rank(), len(self.batches), world()))


class Shard:
    """A test loader of which each process reads the batches that are its turn, and an empty one where none is left.

    The batches are those of one process, and none is read twice.
    """

    def __init__(self, loader: DataLoader) -> None:
        self.rounds = -(-len(loader) // world())
        self.loader = DataLoader(
            loader.dataset,
            batch_sampler=EveryNth(loader.batch_sampler),  # type: ignore[arg-type]
            num_workers=loader.num_workers,
            pin_memory=loader.pin_memory,
        )

    def __len__(self) -> int:
        return self.rounds

    def __iter__(self) -> Iterator[dict[str, Any]]:
        yield from self.loader
        if len(self.loader) < self.rounds:
            yield {key: value[:0] for key, value in default_collate([self.loader.dataset[0]]).items()}


def sharded(loader: Any) -> Any:
    """A test loader as `Shard`; None and the loader of a single process stay as they are."""
    return Shard(loader) if loader is not None and world() > 1 else loader


def gather(value: Any) -> list[Any]:
    """The picklable objects of all processes, in order, in every process."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def gather_rows(rows: Tensor) -> Tensor:
    """The rows (b, ...) of all processes, one after the other."""
    return rows if world() == 1 else torch.cat(gather(rows.cpu())).to(rows.device)
