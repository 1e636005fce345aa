"""Every dataset of the benchmark in miniature: its folders and annotation files as published, with few, tiny images."""

import itertools
import json
import os
from pathlib import Path

from PIL import Image

WORDNET = {"n01440764": "tench", "n01443537": "goldfish", "n04356056": "sunglasses", "n04355933": "sunglasses"}


def image(path) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Image.new("RGB", (8, 8), (len(str(path)) % 256, 0, 0)).save(path, format="JPEG")


def images(folder, names) -> None:
    """Images in an order that is not the alphabetical one, as file systems list them."""
    for name in sorted(names, key=lambda name: name[::-1]):
        image(Path(folder) / name)


def lines(path, rows) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Path(path).write_text("\n".join(rows) + "\n")


def digits(root):
    """The first 80 of the handwritten digits, eight or so of each class."""
    from promptbias.datasets.digits import Digits

    class FewDigits(Digits):
        @staticmethod
        def draw():
            return itertools.islice(Digits.draw(), 80)

    FewDigits.write(str(root / "digits"))


def caltech101(root):
    folder = root / "caltech-101" / "101_ObjectCategories"
    for name in ("accordion", "airplanes", "BACKGROUND_Google", "Faces", "Faces_easy", "Leopards", "yin_yang"):
        images(folder / name, [f"image_{i:04}.jpg" for i in range(1, 12)])
    (folder / ".DS_Store").write_text("hidden")
    return ["face", "leopard", "accordion", "airplane", "yin_yang"]


def dtd(root):
    for name in ("woven", "banded", "polka-dotted"):
        images(root / "dtd" / "images" / name, [f"{name}_{i:04}.jpg" for i in range(9)])
        (root / "dtd" / "images" / name / ".directory").write_text("hidden")
    return ["banded", "polka-dotted", "woven"]


def eurosat(root):
    for name in ("SeaLake", "AnnualCrop", "Forest"):
        images(root / "eurosat" / "2750" / name, [f"{name}_{i}.jpg" for i in range(1, 14)])
    return ["Annual Crop Land", "Forest", "Sea or Lake"]


def food101(root):
    for name in ("waffles", "apple_pie"):
        images(root / "food-101" / "images" / name, [f"{i * 7919}.jpg" for i in range(10)])
    lines(root / "food-101" / "meta" / "classes.txt", ["apple_pie", "waffles"])
    return ["apple_pie", "waffles"]


def oxford_pets(root):
    folder, rows = root / "oxford_pets", []
    for label, (breed, species) in enumerate((("Abyssinian", 1), ("american_bulldog", 2), ("yorkshire_terrier", 2)), 1):
        names = [f"{breed}_{i}" for i in range(1, 16)]
        images(folder / "images", [name + ".jpg" for name in names])
        rows += [f"{name} {label} {species} {label}" for name in names]
    lines(folder / "annotations" / "trainval.txt", rows[::-2])
    lines(folder / "annotations" / "test.txt", rows[1::2])
    return ["abyssinian", "american_bulldog", "yorkshire_terrier"]


def oxford_flowers(root):
    import numpy as np
    from scipy.io import savemat

    folder = root / "oxford_flowers"
    labels = np.array([[3, 1, 2, 1, 1, 3] * 4 + [2] * 5], dtype=np.uint8)
    images(folder / "jpg", [f"image_{i:05}.jpg" for i in range(1, labels.size + 1)])
    savemat(folder / "imagelabels.mat", {"labels": labels}, do_compression=True)
    names = {"2": "hard-leaved pocket orchid", "1": "pink primrose", "3": "rose"}
    (folder / "cat_to_name.json").write_text(json.dumps(names))
    return [names[number] for number in "123"]


def stanford_cars(root):
    import numpy as np
    from scipy.io import savemat

    folder = root / "stanford_cars"
    names = ["AM General Hummer SUV 2000", "Acura Integra Type R 2001", "Ram C/V Cargo Van Minivan 2012"]
    meta = np.empty((1, 3), object)
    meta[0, :] = names
    os.makedirs(folder / "devkit")
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": meta}, do_compression=True)
    fields = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname"]
    annotations = (("train", 18, "devkit/cars_train_annos.mat"), ("test", 9, "cars_test_annos_withlabels.mat"))
    for part, count, path in annotations:
        rows = np.zeros((1, count), [(field, object) for field in fields])
        for i in range(count):
            rows[0, i] = (1, 1, 8, 8, i * 5 % 3 + 1, f"{i + 1:05}.jpg")
        images(folder / f"cars_{part}", [f"{i + 1:05}.jpg" for i in range(count)])
        savemat(folder / path, {"annotations": rows}, do_compression=True)
    return ["2000 AM General Hummer SUV", "2001 Acura Integra Type R", "2012 Ram C/V Cargo Van Minivan"]


def fgvc_aircraft(root):
    folder, variants = root / "fgvc_aircraft", ["A340-200", "F/A-18", "Boeing 707-320"]
    lines(folder / "variants.txt", variants)
    for shift, part in enumerate(("train", "val", "test")):
        names = [f"{1000000 + 3 * i + shift:07}" for i in range(12)]
        images(folder / "images", [name + ".jpg" for name in names])
        lines(folder / f"images_variant_{part}.txt", [f"{name} {variants[i % 3]}" for i, name in enumerate(names)])
    return variants


def sun397(root):
    folder, scenes = root / "sun397", ["/a/abbey", "/b/bow_window/indoor", "/c/cathedral/outdoor"]
    lines(folder / "ClassName.txt", scenes)
    paths = [f"{scene}/sun_{i:x}.jpg" for i in range(100, 112) for scene in scenes]
    for path in paths:
        image(folder / "SUN397" / path[1:])
    lines(folder / "Training_01.txt", paths[:24])
    lines(folder / "Testing_01.txt", paths[24:])
    return ["abbey", "indoor bow_window", "outdoor cathedral"]


def ucf101(root):
    folder, actions = root / "ucf101", ["ApplyEyeMakeup", "HandstandPushups", "YoYo"]
    lines(folder / "ucfTrainTestlist" / "classInd.txt", [f"{i} {action}" for i, action in enumerate(actions, 1)])
    frames = {"ApplyEyeMakeup": "Apply_Eye_Makeup", "HandstandPushups": "Handstand_Pushups", "YoYo": "Yo_Yo"}
    train, test = [], []
    for label, action in enumerate(actions, 1):
        videos = [f"v_{action}_g{i:02}_c01" for i in range(10)]
        images(folder / "UCF-101-midframes" / frames[action], [video + ".jpg" for video in videos])
        train += [f"{action}/{video}.avi {label}" for video in videos[3:]]
        test += [f"{action}/{video}.avi" for video in videos[:3]]
    lines(folder / "ucfTrainTestlist" / "trainlist01.txt", train)
    lines(folder / "ucfTrainTestlist" / "testlist01.txt", test)
    return list(frames.values())


def classnames(folder):
    lines(folder / "classnames.txt", [f"{wordnet} {name}" for wordnet, name in sorted(WORDNET.items())])
    return [name for _, name in sorted(WORDNET.items())]


def imagenet(root):
    for wordnet in WORDNET:
        images(root / "imagenet" / "images" / "train" / wordnet, [f"{wordnet}_{i * 37}.JPEG" for i in range(9)])
        images(root / "imagenet" / "images" / "val" / wordnet, [f"ILSVRC2012_val_{i:08}.JPEG" for i in range(3)])
    return classnames(root / "imagenet")


def imagenetv2(root):
    folder = root / "imagenetv2" / "imagenetv2-matched-frequency-format-val"
    for label in range(len(WORDNET)):
        images(folder / str(label), [f"{i}a.jpeg" for i in range(3)])
    return classnames(root / "imagenetv2")


def imagenet_sketch(root):
    for wordnet in WORDNET:
        images(root / "imagenet-sketch" / "images" / wordnet, [f"sketch_{i}.JPEG" for i in range(3)])
    return classnames(root / "imagenet-sketch")


def imagenet_a(root):
    return _two_hundred(root / "imagenet-adversarial", "imagenet-a")


def imagenet_r(root):
    return _two_hundred(root / "imagenet-rendition", "imagenet-r")


def _two_hundred(folder, name):
    """Some of ImageNet's classes, and a note among their folders."""
    for wordnet in sorted(WORDNET)[1:3]:
        images(folder / name / wordnet, [f"0.0{i}_x _ y.jpg" for i in range(3)])
    (folder / name / "README.txt").write_text("about")
    return classnames(folder)[1:3]


# short name: (name in Dassl's registry, builder, which returns the class names)
MINIATURES = {
    "caltech101": ("Caltech101", caltech101),
    "dtd": ("DescribableTextures", dtd),
    "eurosat": ("EuroSAT", eurosat),
    "fgvc_aircraft": ("FGVCAircraft", fgvc_aircraft),
    "food101": ("Food101", food101),
    "imagenet": ("ImageNet", imagenet),
    "imagenet_a": ("ImageNetA", imagenet_a),
    "imagenet_r": ("ImageNetR", imagenet_r),
    "imagenet_sketch": ("ImageNetSketch", imagenet_sketch),
    "imagenetv2": ("ImageNetV2", imagenetv2),
    "oxford_flowers": ("OxfordFlowers", oxford_flowers),
    "oxford_pets": ("OxfordPets", oxford_pets),
    "stanford_cars": ("StanfordCars", stanford_cars),
    "sun397": ("SUN397", sun397),
    "ucf101": ("UCF101", ucf101),
}
