"""The order in which a loader visits the images."""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from dassl.utils import ConfigError
from torch.utils.data.sampler import RandomSampler, Sampler, SequentialSampler

from promptbias.utils.errors import nearest

__all__ = ["RandomDomainSampler", "SeqDomainSampler", "RandomClassSampler", "build_sampler"]


def _indices_by(data_source: Sequence, attribute: str) -> dict[int, list[int]]:
    groups = defaultdict(list)
    for index, item in enumerate(data_source):
        groups[getattr(item, attribute)].append(index)
    return groups


class _GroupSampler(Sampler):
    """Draws a whole epoch at once; its length is only known after drawing one."""

    def __init__(self):
        self.length = len(self._draw())

    def _draw(self) -> list[int]:
        raise NotImplementedError

    def __iter__(self) -> Iterator[int]:
        return iter(self._draw())

    def __len__(self) -> int:
        return self.length


class RandomDomainSampler(_GroupSampler):
    """Batches of `n_domain` random domains (all if 0) with equally many images each, until one domain runs out."""

    def __init__(self, data_source: Sequence, batch_size: int, n_domain: int | None = 0):
        self.by_domain = _indices_by(data_source, "domain")
        self.domains = list(self.by_domain)
        self.n_domain = n_domain if n_domain and n_domain > 0 else len(self.domains)
        if self.n_domain > len(self.domains):
            raise ConfigError(
                f"batches of {self.n_domain} domains cannot be drawn from {len(self.domains)}; choose fewer"
            )
        if batch_size % self.n_domain:
            raise ConfigError(f"a batch of {batch_size} images does not divide into {self.n_domain} domains; change it")
        self.n_images = batch_size // self.n_domain
        super().__init__()

    def _domains_of_batch(self) -> list[int]:
        return random.sample(self.domains, self.n_domain)

    def _draw(self) -> list[int]:
        remaining = {domain: list(indices) for domain, indices in self.by_domain.items()}
        drawn = []
        exhausted = False
        while not exhausted:
            for domain in self._domains_of_batch():
                chosen = random.sample(remaining[domain], self.n_images)
                drawn += chosen
                remaining[domain] = [index for index in remaining[domain] if index not in chosen]
                exhausted |= len(remaining[domain]) < self.n_images
        return drawn


class SeqDomainSampler(RandomDomainSampler):
    """Batches with equally many images of every domain, the domains in sorted order."""

    def __init__(self, data_source: Sequence, batch_size: int):
        super().__init__(data_source, batch_size)

    def _domains_of_batch(self) -> list[int]:
        return sorted(self.domains)


class RandomClassSampler(_GroupSampler):
    """Batches of random classes with `n_ins` images each; a class with fewer images repeats some."""

    def __init__(self, data_source: Sequence, batch_size: int, n_ins: int):
        self.by_class = _indices_by(data_source, "label")
        self.n_ins = n_ins
        self.n_classes = batch_size // n_ins
        if not 0 < self.n_classes <= len(self.by_class):
            raise ConfigError(
                f"a batch of {batch_size} images with {n_ins} per class has {self.n_classes} classes; "
                f"choose BATCH_SIZE and N_INS for 1 to {len(self.by_class)} classes"
            )
        super().__init__()

    def _draw(self) -> list[int]:
        portions = {}
        for label, indices in self.by_class.items():
            indices = list(indices)
            if len(indices) < self.n_ins:
                indices = np.random.choice(indices, size=self.n_ins, replace=True)
            random.shuffle(indices)
            full = len(indices) - len(indices) % self.n_ins
            portions[label] = [list(indices[i : i + self.n_ins]) for i in range(0, full, self.n_ins)]
        drawn = []
        while len(portions) >= self.n_classes:
            for label in random.sample(list(portions), self.n_classes):
                drawn += portions[label].pop(0)
                if not portions[label]:
                    del portions[label]
        return drawn


def build_sampler(
    sampler_type: str,
    cfg: Any = None,
    data_source: Sequence = (),
    batch_size: int = 32,
    n_domain: int = 0,
    n_ins: int = 16,
) -> Sampler:
    """The sampler of the given name; ConfigError for an unknown one."""
    known = {
        "RandomSampler": lambda: RandomSampler(data_source),
        "SequentialSampler": lambda: SequentialSampler(data_source),
        "RandomDomainSampler": lambda: RandomDomainSampler(data_source, batch_size, n_domain),
        "SeqDomainSampler": lambda: SeqDomainSampler(data_source, batch_size),
        "RandomClassSampler": lambda: RandomClassSampler(data_source, batch_size, n_ins),
    }
    if sampler_type not in known:
        raise ConfigError(f'"{sampler_type}" is not a sampler; {nearest(sampler_type, known)}')
    return known[sampler_type]()
