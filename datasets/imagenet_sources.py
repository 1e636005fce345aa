"""Where ImageNet and the four variants of its test set come from; see sources.py."""

from .fetches import Fetch, Source, google_drive


def _classnames(folder: str) -> Fetch:
    return google_drive("1-61f_ol79pViBFDG_IDlUQSwoLcn2XXF", f"{folder}/classnames.txt")


IMAGENET = Source(
    dataset="ImageNet",
    folder="imagenet",
    layout="imagenet/images/{train,val}/<n01440764 ...>/*.JPEG",
    page="https://image-net.org/download-images.php",
    licence="non-commercial research, on registration",
    size="145 GB",
    counts=(1_281_167, 50_000, 50_000),
    fetches=(Fetch("", "imagenet/images/train"), Fetch("", "imagenet/images/val"), _classnames("imagenet")),
    manual_steps="register at image-net.org and put ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
    "ILSVRC2012_devkit_t12.tar.gz into imagenet/ (they are unpacked from there), or link images/{train,val}",
)

IMAGENET_VARIANTS: dict[str, Source] = {
    "imagenetv2": Source(
        dataset="ImageNetV2",
        folder="imagenetv2",
        layout="imagenetv2/imagenetv2-matched-frequency-format-val/<0 ... 999>/*.jpeg",
        page="https://github.com/modestyachts/ImageNetV2",
        licence="MIT",
        size="1.3 GB",
        counts=(10_000, 0, 10_000),
        fetches=(
            Fetch(
                "https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/imagenetv2-matched-frequency.tar.gz",
                "imagenetv2/imagenetv2-matched-frequency.tar.gz",
                unpack=(
                    (
                        "imagenetv2-matched-frequency-format-val",
                        "imagenetv2/imagenetv2-matched-frequency-format-val",
                    ),
                ),
            ),
            _classnames("imagenetv2"),
        ),
    ),
    "imagenet_sketch": Source(
        dataset="ImageNetSketch",
        folder="imagenet-sketch",
        layout="imagenet-sketch/images/<n01440764 ...>/*.JPEG",
        page="https://github.com/HaohanWang/ImageNet-Sketch",
        licence="MIT",
        size="8 GB",
        counts=(50_889, 0, 50_889),
        fetches=(
            google_drive("1Mj0i5HBthqH1p_yeXzsg22gZduvgoNeA", "imagenet-sketch/ImageNet-Sketch.zip")._replace(
                unpack=(("sketch", "imagenet-sketch/images"),)
            ),
            _classnames("imagenet-sketch"),
        ),
    ),
    "imagenet_a": Source(
        dataset="ImageNetA",
        folder="imagenet-adversarial",
        layout="imagenet-adversarial/imagenet-a/<n01498041 ...>/*.jpg",
        page="https://github.com/hendrycks/natural-adv-examples",
        licence="MIT",
        size="690 MB",
        counts=(7_500, 0, 7_500),
        fetches=(
            Fetch(
                "https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar",
                "imagenet-adversarial/imagenet-a.tar",
                "c3e55429088dc681f30d81f4726b6595",
                (("imagenet-a", "imagenet-adversarial/imagenet-a"),),
            ),
            _classnames("imagenet-adversarial"),
        ),
    ),
    "imagenet_r": Source(
        dataset="ImageNetR",
        folder="imagenet-rendition",
        layout="imagenet-rendition/imagenet-r/<n01443537 ...>/*.jpg",
        page="https://github.com/hendrycks/imagenet-r",
        licence="MIT",
        size="2.2 GB",
        counts=(30_000, 0, 30_000),
        fetches=(
            Fetch(
                "https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
                "imagenet-rendition/imagenet-r.tar",
                "a61312130a589d0ca1a8fca1f2bd3337",
                (("imagenet-r", "imagenet-rendition/imagenet-r"),),
            ),
            _classnames("imagenet-rendition"),
        ),
    ),
}
