"""What a library has to offer so that a tuned model can be exported to it."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from .source import Source


class Loaded(NamedTuple):
    """An export as its library loads it.

    Attributes:
        logits: images (B, 3, S, S) -> logits (B, K), of any B.
        preprocess: the library's own way from a PIL image to (3, S, S), if it has one.
    """

    logits: Callable[[Tensor], Tensor]
    preprocess: Callable[[Any], Tensor] | None = None


class Target:
    """A library that takes tuned models.

    Attributes:
        library: its name, for people.
        needs: package on the index -> module, of what must be installed.
        folds: whether it takes a stock CLIP, and so only methods that fold.
        rounds: what it does to the weights, where that is more than rounding in float32; "" if nothing.
    """

    library: ClassVar[str]
    needs: ClassVar[dict[str, str]] = {}
    folds: ClassVar[bool] = True
    rounds: ClassVar[str] = ""

    def write(self, source: Source, folder: str) -> None:
        """Write all that the library reads into an empty folder.

        Raises:
            UserError: the library has no place for this model.
        """
        raise NotImplementedError

    def load(self, source: Source, folder: str) -> Iterator[Loaded]:
        """What was written, in every way in which the library loads it."""
        raise NotImplementedError

    def reference(self, source: Source) -> Tensor:
        """The logits (B, K) of the source's images that the loaded model must give, to float32 rounding."""
        return source.logits

    def usage(self, source: Source) -> str:
        """The lines of Python that load it, run inside the folder."""
        raise NotImplementedError
