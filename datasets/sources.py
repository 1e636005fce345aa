"""Where each dataset comes from: official addresses, checksums, licences, sizes, and the counts of CoOp's splits.

The addresses are those of CoOp's DATASETS.md; where one no longer answers, the one that torchvision uses instead.
Checksums are torchvision's where it has them. Nothing here imports more than the standard library.
"""
from typing import Dict, NamedTuple, Optional, Tuple


class Fetch(NamedTuple):
    """One file to have.

    Attributes:
        url: address; "" where an earlier step leaves the file in place
        file: where it is kept while it is needed, relative to the data root
        to: what it turns into, relative to the data root; the step is done when this is there
        take: the member of the archive `file` that becomes `to`; "" where `file` is no archive
        md5: checksum of `file`; "" where nobody publishes one
    """

    url: str
    file: str
    to: str
    take: str = ""
    md5: str = ""


class Source(NamedTuple):
    """One dataset.

    Attributes:
        dataset: its name in Dassl's registry (DATASET.NAME)
        folder: its folder under the data root
        layout: where the images stand, in words
        page: its home page
        licence: as its authors state it
        size: of what has to be downloaded
        counts: images for training, validation and testing
        fetches: in the order in which they are needed
        by_hand: what no public address gives, and what to do; "" where everything can be downloaded
    """

    dataset: str
    folder: str
    layout: str
    page: str
    licence: str
    size: str
    counts: Tuple[int, int, int]
    fetches: Tuple[Fetch, ...] = ()
    by_hand: str = ""


def _drive(key: str, path: str) -> Fetch:
    """A file that CoOp's authors keep on Google Drive."""
    return Fetch(f"https://drive.google.com/uc?id={key}", path, path)


SOURCES: Dict[str, Source] = {
    "digits": Source(
        dataset="Digits",
        folder="digits",
        layout="digits/images/<class>/*.png",
        page="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        licence="CC BY 4.0",
        size="nothing: written from scikit-learn's copy",
        counts=(898, 359, 540),
    ),
    "eurosat": Source(
        dataset="EuroSAT",
        folder="eurosat",
        layout="eurosat/2750/<class>/*.jpg",
        page="https://github.com/phelber/EuroSAT",
        licence="MIT",
        size="90 MB",
        counts=(13_500, 5_400, 8_100),
        fetches=(
            Fetch(
                "https://huggingface.co/datasets/torchgeo/eurosat/resolve/c877bcd43f099cd0196738f714544e355477f3fd/"
                "EuroSAT.zip",
                "eurosat/EuroSAT.zip",
                "eurosat/2750",
                take="2750",
                md5="c8fa014336c82ac7804f0398fcb19387",
            ),
            _drive("1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o", "eurosat/split_zhou_EuroSAT.json"),
        ),
    ),
}


def source_of(dataset: str) -> Optional[Tuple[str, Source]]:
    """(short name, source) of a dataset by its name in Dassl's registry; None where it is not one of ours."""
    return next(((name, source) for name, source in SOURCES.items() if source.dataset == dataset), None)
