"""Where each dataset comes from: addresses, checksums, licences, sizes, and the image counts of CoOp's splits.

The addresses are those of CoOp's DATASETS.md or, where one no longer answers, the one that torchvision or the authors
use now. Checksums are torchvision's if it has them.
"""

from .embedded_sources import EMBEDDED
from .fetches import Fetch, Source, google_drive
from .imagenet_sources import IMAGENET, IMAGENET_VARIANTS

_ROBOTS = "https://www.robots.ox.ac.uk/~vgg/data"
_SUN = "vision.princeton.edu/projects/2010/SUN"
_AIRCRAFT = Fetch(
    f"{_ROBOTS}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
    "fgvc_aircraft/fgvc-aircraft-2013b.tar.gz",
    "d4acdd33327262359767eeaa97a4f732",
)

SOURCES: dict[str, Source] = {
    **EMBEDDED,
    "imagenet": IMAGENET,
    "caltech101": Source(
        dataset="Caltech101",
        folder="caltech-101",
        layout="caltech-101/101_ObjectCategories/<class>/*.jpg",
        page="https://data.caltech.edu/records/mzrjq-6wc02",
        licence="CC BY 4.0",
        size="140 MB",
        counts=(4_128, 1_649, 2_465),
        fetches=(
            Fetch(
                "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                "caltech-101/caltech-101.zip",
                "3138e1922a9193bfa496528edbbc45d0",
                (("101_ObjectCategories", "caltech-101/101_ObjectCategories"),),
                inside="caltech-101/101_ObjectCategories.tar.gz",
            ),
            google_drive("1hyarUivQE36mY6jSomru6Fjd-JzwcCzN", "caltech-101/split_zhou_Caltech101.json"),
        ),
    ),
    "oxford_pets": Source(
        dataset="OxfordPets",
        folder="oxford_pets",
        layout="oxford_pets/images/*.jpg",
        page=f"{_ROBOTS}/pets/",
        licence="CC BY-SA 4.0",
        size="810 MB",
        counts=(2_944, 736, 3_669),
        fetches=(
            Fetch(
                f"{_ROBOTS}/pets/data/images.tar.gz",
                "oxford_pets/images.tar.gz",
                "5c4f3ee8e5d25df40f4fd59a7f44e54c",
                (("images", "oxford_pets/images"),),
            ),
            Fetch(
                f"{_ROBOTS}/pets/data/annotations.tar.gz",
                "oxford_pets/annotations.tar.gz",
                "95a8c909bbe2e81eed6a22bccdf3f68f",
                (("annotations", "oxford_pets/annotations"),),
            ),
            google_drive("1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs", "oxford_pets/split_zhou_OxfordPets.json"),
        ),
    ),
    "stanford_cars": Source(
        dataset="StanfordCars",
        folder="stanford_cars",
        layout="stanford_cars/{cars_train,cars_test}/*.jpg",
        page="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        licence="non-commercial research",
        size="2 GB",
        counts=(6_509, 1_635, 8_041),
        fetches=(
            Fetch(
                "",
                "stanford_cars/cars_train.tgz",
                "065e5b463ae28d29e77c1b4b166cfe61",
                (("cars_train", "stanford_cars/cars_train"),),
            ),
            Fetch(
                "",
                "stanford_cars/cars_test.tgz",
                "4ce7ebf6a94d07f1952d94dd34c4d501",
                (("cars_test", "stanford_cars/cars_test"),),
            ),
            google_drive("1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT", "stanford_cars/split_zhou_StanfordCars.json"),
        ),
        manual_steps="Stanford no longer serves the images; put cars_train.tgz and cars_test.tgz (or folders of the "
        "same names) from a copy into stanford_cars/; its boxes are in cars_test_annos_withlabels.mat and devkit/",
        masks=(
            Fetch("", "stanford_cars/devkit/cars_train_annos.mat"),
            Fetch("", "stanford_cars/cars_test_annos_withlabels.mat"),
        ),
    ),
    "oxford_flowers": Source(
        dataset="OxfordFlowers",
        folder="oxford_flowers",
        layout="oxford_flowers/jpg/*.jpg",
        page=f"{_ROBOTS}/flowers/102/",
        licence="not stated",
        size="350 MB",
        counts=(4_093, 1_633, 2_463),
        fetches=(
            Fetch(
                f"{_ROBOTS}/flowers/102/102flowers.tgz",
                "oxford_flowers/102flowers.tgz",
                "52808999861908f626f3c1f4e79d11fa",
                (("jpg", "oxford_flowers/jpg"),),
            ),
            Fetch(
                f"{_ROBOTS}/flowers/102/imagelabels.mat",
                "oxford_flowers/imagelabels.mat",
                "e0620be6f572b9609742df49c70aed4d",
            ),
            google_drive("1AkcxCXeK_RCGCEC_GvmWxjcjaNhu-at0", "oxford_flowers/cat_to_name.json"),
            google_drive("1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT", "oxford_flowers/split_zhou_OxfordFlowers.json"),
        ),
        masks=(
            Fetch(
                f"{_ROBOTS}/flowers/102/102segmentations.tgz",
                "oxford_flowers/102segmentations.tgz",
                "51375996b6c4f367a4b9f4492d7ecef5",
                (("segmim", "oxford_flowers/segmim"),),
            ),
        ),
    ),
    "food101": Source(
        dataset="Food101",
        folder="food-101",
        layout="food-101/images/<class>/*.jpg",
        page="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        licence="scientific fair use",
        size="5 GB",
        counts=(50_500, 20_200, 30_300),
        fetches=(
            Fetch(
                "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
                "food-101/food-101.tar.gz",
                "85eeb15f3717b99a5da872d97d918f87",
                (("food-101/images", "food-101/images"),),
            ),
            google_drive("1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl", "food-101/split_zhou_Food101.json"),
        ),
    ),
    "fgvc_aircraft": Source(
        dataset="FGVCAircraft",
        folder="fgvc_aircraft",
        layout="fgvc_aircraft/images/*.jpg",
        page=f"{_ROBOTS}/fgvc-aircraft/",
        licence="non-commercial research",
        size="2.8 GB",
        counts=(3_334, 3_333, 3_333),
        fetches=(
            _AIRCRAFT._replace(
                unpack=tuple(
                    (f"fgvc-aircraft-2013b/data/{name}", f"fgvc_aircraft/{name}")
                    for name in (
                        "variants.txt",
                        "images_variant_train.txt",
                        "images_variant_val.txt",
                        "images_variant_test.txt",
                        "images",
                    )
                )
            ),
        ),
        masks=(
            _AIRCRAFT._replace(unpack=(("fgvc-aircraft-2013b/data/images_box.txt", "fgvc_aircraft/images_box.txt"),)),
        ),
    ),
    "sun397": Source(
        dataset="SUN397",
        folder="sun397",
        layout="sun397/SUN397/<letter>/<class>/*.jpg",
        page=f"https://{_SUN}/",
        licence="research",
        size="39 GB",
        counts=(15_880, 3_970, 19_850),
        fetches=(
            Fetch(
                f"http://{_SUN}/SUN397.tar.gz",
                "sun397/SUN397.tar.gz",
                "8ca2778205c41d23104230ba66911c7a",
                (("SUN397", "sun397/SUN397"),),
            ),
            google_drive("1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq", "sun397/split_zhou_SUN397.json"),
        ),
    ),
    "dtd": Source(
        dataset="DescribableTextures",
        folder="dtd",
        layout="dtd/images/<class>/*.jpg",
        page=f"{_ROBOTS}/dtd/",
        licence="research",
        size="625 MB",
        counts=(2_820, 1_128, 1_692),
        fetches=(
            Fetch(
                f"{_ROBOTS}/dtd/download/dtd-r1.0.1.tar.gz",
                "dtd/dtd-r1.0.1.tar.gz",
                "fff73e5086ae6bdbea199a49dfb8a4c1",
                (("dtd/images", "dtd/images"),),
            ),
            google_drive("1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x", "dtd/split_zhou_DescribableTextures.json"),
        ),
    ),
    "eurosat": Source(
        dataset="EuroSAT",
        folder="eurosat",
        layout="eurosat/2750/<class>/*.jpg",
        page="https://github.com/phelber/EuroSAT",
        licence="MIT",
        size="95 MB",
        counts=(13_500, 5_400, 8_100),
        fetches=(
            Fetch(
                "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
                "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                "eurosat/EuroSAT.zip",
                "c8fa014336c82ac7804f0398fcb19387",
                (("2750", "eurosat/2750"),),
            ),
            google_drive("1Ip7yaCWFi0eaOFUGga0lUdVi_DDQth1o", "eurosat/split_zhou_EuroSAT.json"),
        ),
    ),
    "ucf101": Source(
        dataset="UCF101",
        folder="ucf101",
        layout="ucf101/UCF-101-midframes/<class>/*.jpg",
        page="https://www.crcv.ucf.edu/data/UCF101.php",
        licence="not stated",
        size="not stated",
        counts=(7_639, 1_898, 3_783),
        fetches=(
            google_drive("10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O", "ucf101/UCF-101-midframes.zip")._replace(
                unpack=(("UCF-101-midframes", "ucf101/UCF-101-midframes"),)
            ),
            google_drive("1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y", "ucf101/split_zhou_UCF101.json"),
        ),
    ),
    **IMAGENET_VARIANTS,
}


def source_of(dataset: str) -> tuple[str, Source] | None:
    """(short name, source) of a dataset by its name in Dassl's registry; None if it is not one of SOURCES."""
    return next(((name, source) for name, source in SOURCES.items() if source.dataset == dataset), None)
