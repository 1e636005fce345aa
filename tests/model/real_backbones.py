"""Real architectures with random weights: how far our features are from those of transformers and open_clip.

    python tests/model/real_backbones.py ViT-B/32 ViT-H/14

prints the largest difference of a feature, in units of the largest feature. Not a pytest file: ViT-L/14
takes minutes, and ViT-H/14 needs some 20 GB of memory.
"""

import os
import sys
import tempfile

import torch
from clip_shapes import REAL, open_clip_config, save_transformers, shaken

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
import promptbias

TEXTS = ["cat", "small dog", "photo camera on three legs"]


@torch.no_grad()
def differences(backbone, images, image_features, text_features):
    """Of the towers, image and text, to the features that the other library's functions compute."""
    model = promptbias.build("BiasTuning", TEXTS, backbone, precision="fp32")
    pairs = (
        (model.vision(images, model.adapters.vision), image_features(images)),
        (model.text(model.adapters.text), text_features(model.text.tokens)),
    )
    return [float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs]


def of_transformers(name, activation, images, folder):
    theirs = save_transformers(REAL[name], folder, activation)

    def features(function):
        return lambda x: getattr(output := function(x), "pooler_output", output)

    return differences(folder, images, features(theirs.get_image_features), features(theirs.get_text_features))


def of_open_clip(name, activation, images, folder):
    import open_clip

    suffix = "-quickgelu" if activation == "quick_gelu" else ""
    model = name.replace("/", "-").replace("@336px", "-336") + suffix
    config = open_clip.get_model_config(model)
    described = open_clip_config(REAL[name], activation)["vision_cfg"]
    assert {"mlp_ratio": 4.0, "head_width": 64, **config["vision_cfg"]} == described
    theirs = shaken(open_clip.create_model(model))
    torch.save(theirs.state_dict(), f"{folder}/clip.pt")
    return differences(f"open_clip:{model}@{folder}/clip.pt", images, theirs.encode_image, theirs.encode_text)


def main(names):
    for name in names:
        for activation in ("quick_gelu", "gelu"):
            torch.manual_seed(0)
            images = torch.randn(2, 3, REAL[name].pixels, REAL[name].pixels)
            for compare in (of_transformers, of_open_clip):
                with tempfile.TemporaryDirectory() as folder:
                    image, text = compare(name, activation, images, folder)
                library = compare.__name__.removeprefix("of_")
                print(f"{name} | {activation} | {library} | image {image:.1e} | text {text:.1e}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or REAL)
