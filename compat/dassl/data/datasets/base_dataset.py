"""One labelled image, and a dataset made of them."""

import os
import random
from collections import defaultdict
from collections.abc import Sequence

from dassl.utils import ConfigError

from promptbias.utils.errors import nearest

__all__ = ["Datum", "DatasetBase"]


class Datum:
    """An image file with its label.

    Few-shot caches pickle this class by its module and attribute names.

    Raises:
        FileNotFoundError: no file at `impath`, or a pipe or a device.
    """

    def __init__(self, impath: str = "", label: int = 0, domain: int = 0, classname: str = ""):
        if not os.path.isfile(impath):
            what = "is not a regular file" if os.path.lexists(impath) else "does not exist"
            raise FileNotFoundError(f'the dataset lists "{impath}", which {what}; check DATASET.ROOT')
        self._impath = impath
        self._label = label
        self._domain = domain
        self._classname = classname

    impath = property(lambda self: self._impath)
    label = property(lambda self: self._label)
    domain = property(lambda self: self._domain)
    classname = property(lambda self: self._classname)


class DatasetBase:
    """Training, validation and test images; the classes are those of the labelled training images.

    Args:
        train_x: labelled training images.
        train_u: unlabelled training images.
        val: validation images.
        test: test images.
    """

    dataset_dir = ""  # below DATASET.ROOT
    domains: list[str] = []

    def __init__(
        self,
        train_x: Sequence[Datum] = (),
        train_u: Sequence[Datum] | None = None,
        val: Sequence[Datum] | None = None,
        test: Sequence[Datum] | None = None,
    ):
        self._train_x = train_x
        self._train_u = train_u
        self._val = val
        self._test = test
        self._num_classes = self.get_num_classes(train_x)
        self._lab2cname, self._classnames = self.get_lab2cname(train_x)

    train_x = property(lambda self: self._train_x)
    train_u = property(lambda self: self._train_u)
    val = property(lambda self: self._val)
    test = property(lambda self: self._test)
    num_classes = property(lambda self: self._num_classes)
    lab2cname = property(lambda self: self._lab2cname)
    classnames = property(lambda self: self._classnames)

    @staticmethod
    def get_num_classes(data_source: Sequence[Datum]) -> int:
        """The highest label plus one; ConfigError if there are no images."""
        if not data_source:
            raise ConfigError("the dataset has no training images; check DATASET.ROOT")
        return max(item.label for item in data_source) + 1

    @staticmethod
    def get_lab2cname(data_source: Sequence[Datum]) -> tuple[dict[int, str], list[str]]:
        """Class name of each label, and the names in the order of labels."""
        names = {item.label: item.classname for item in data_source}
        names = dict(sorted(names.items()))
        return names, list(names.values())

    def check_input_domains(self, source_domains: Sequence[str], target_domains: Sequence[str]) -> None:
        """Raises ConfigError unless both name at least one domain, and only domains of the dataset."""
        for role, chosen in {"SOURCE": source_domains, "TARGET": target_domains}.items():
            if not chosen:
                raise ConfigError(f"DATASET.{role}_DOMAINS is empty; choose from {', '.join(self.domains)}")
            self.is_input_domain_valid(chosen)

    def is_input_domain_valid(self, input_domains: Sequence[str]) -> None:
        """Raises ConfigError if one of them is not a domain of the dataset."""
        for domain in input_domains:
            if domain not in self.domains:
                raise ConfigError(f'"{domain}" is not a domain of this dataset; {nearest(domain, self.domains)}')

    def generate_fewshot_dataset(
        self, *data_sources: Sequence[Datum], num_shots: int = -1, repeat: bool = False
    ) -> Sequence[Datum] | Sequence[Sequence[Datum]]:
        """Draw `num_shots` images of each class with Python's `random`, so that its seed determines which.

        Args:
            data_sources: lists of images, each drawn from separately.
            num_shots: images per class; below 1, all are kept.
            repeat: draw with replacement from a class with too few images, instead of taking all of them.

        Returns:
            The images drawn, classes in order of first occurrence; one list per source if there are several.
        """
        if num_shots < 1:
            return data_sources[0] if len(data_sources) == 1 else data_sources
        print(f"Creating a {num_shots}-shot dataset")

        def draw(items: list[Datum]) -> list[Datum]:
            if len(items) >= num_shots:
                return random.sample(items, num_shots)
            return random.choices(items, k=num_shots) if repeat else items

        output = [
            [item for items in self.split_dataset_by_label(source).values() for item in draw(items)]
            for source in data_sources
        ]
        return output[0] if len(output) == 1 else output

    def split_dataset_by_label(self, data_source: Sequence[Datum]) -> dict[int, list[Datum]]:
        output = defaultdict(list)
        for item in data_source:
            output[item.label].append(item)
        return output

    def split_dataset_by_domain(self, data_source: Sequence[Datum]) -> dict[int, list[Datum]]:
        output = defaultdict(list)
        for item in data_source:
            output[item.domain].append(item)
        return output
