"""How the source of a dataset is described."""

from typing import NamedTuple

from promptbias.utils.paths import IN_CHECKOUT

PREPARE = "python -m datasets.prepare" if IN_CHECKOUT else "python -m promptbias.datasets.prepare"


class Fetch(NamedTuple):
    """One file to download. Paths are relative to the data root.

    Attributes:
        url: address; "" if the user has to provide the file
        file: where to save it
        md5: its checksum; "" if none is published
        unpack: pairs of a member of this archive (a file or a whole folder) and the path to unpack it to
        inside: the member that is the archive to unpack, if one archive is packed in another
    """

    url: str
    file: str
    md5: str = ""
    unpack: tuple[tuple[str, str], ...] = ()
    inside: str = ""

    def results(self) -> list[str]:
        """The paths that must exist in the end."""
        return [to for _, to in self.unpack] or [self.file]


class Source(NamedTuple):
    """One dataset.

    Attributes:
        dataset: its name in Dassl's registry (DATASET.NAME)
        folder: its folder under the data root
        layout: where the images are, relative to the data root
        page: its home page
        licence: in brief, as its authors state it
        size: approximate download size
        counts: images in train_x, val and test, with CoOp's split
        fetches: in the order in which they are needed
        manual_steps: what has no public address and how to get it; "" if everything can be downloaded
        masks: what says where the foreground is, for those who ask for it; empty if `fetches` has it, or nothing does
    """

    dataset: str
    folder: str
    layout: str
    page: str
    licence: str
    size: str
    counts: tuple[int, int, int]
    fetches: tuple[Fetch, ...]
    manual_steps: str = ""
    masks: tuple[Fetch, ...] = ()


def google_drive(key: str, path: str) -> Fetch:
    """A file that CoOp's authors host on Google Drive."""
    return Fetch(f"https://drive.google.com/uc?id={key}", path)
