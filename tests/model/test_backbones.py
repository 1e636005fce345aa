"""CLIPs of Hugging Face and open_clip: the same features as their own libraries compute, tuned and folded.

Random weights in narrow versions of each architecture: patches, grids, head widths and MLPs as in the real ones.
"""

import json
import subprocess
import sys

import pytest
import torch
from clip_shapes import NARROW, open_clip_config, save_transformers, shaken
from conftest import ROOT

import promptbias
from promptbias.dassl_host import provide_dassl
from promptbias.model.backbones import find, huggingface
from promptbias.utils.errors import UserError

provide_dassl()
their_open_clip = pytest.importorskip("open_clip")
pytest.importorskip("transformers")

CLASSES = ["cat", "small dog", "photo camera on three legs"]
REPO = "someone/some-clip"


@pytest.fixture
def register(tmp_path):
    """register(name, config): give open_clip a model config by name; what was registered goes away again."""
    before = dict(their_open_clip.factory._MODEL_CONFIGS), list(their_open_clip.factory._MODEL_CONFIG_PATHS)

    def add(name, config):
        (tmp_path / f"{name}.json").write_text(json.dumps(config))
        their_open_clip.add_model_config(tmp_path / f"{name}.json")

    yield add
    their_open_clip.factory._MODEL_CONFIGS, their_open_clip.factory._MODEL_CONFIG_PATHS = before


def build(backbone, method="BiasTuning"):
    return promptbias.build(method, CLASSES, backbone, precision="fp32")


@torch.no_grad()
def features(model, images):
    """Of the towers, which compute in their own way, and of the stock CLIP that they are around."""
    towers = model.vision(images, model.adapters.vision), model.text(model.adapters.text)
    return towers, (model.clip.encode_image(images), model.clip.encode_text(model.text.tokens))


def assert_equal_to_rounding(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and (a - b).abs().max() <= 2e-6 * b.abs().max().clamp(min=1)


def assert_tunes_and_folds(model, images):
    """A few steps lower the loss, and the folded model computes what the tuned one does."""
    model.adapters.train()
    optimizer = torch.optim.Adam(model.adapters.parameters(), 0.01)
    losses = []
    for _ in range(4):
        loss = model(images, torch.arange(len(images)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    tuned, _ = features(model.eval(), images)
    model.fold()
    assert_equal_to_rounding(features(model, images)[1], tuned)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("name", NARROW)
def test_a_hugging_face_clip(tmp_path, name, activation):
    shape = NARROW[name]
    torch.manual_seed(0)
    theirs = save_transformers(shape, tmp_path, activation)
    model, images = build(str(tmp_path)), torch.randn(3, 3, shape.pixels, shape.pixels)
    with torch.no_grad():
        wanted = theirs.get_image_features(pixel_values=images), theirs.get_text_features(input_ids=model.text.tokens)
    wanted = [getattr(output, "pooler_output", output) for output in wanted]  # tensors, before transformers 5
    with promptbias.capture(model.vision, "blocks.*.mlp.hidden"):
        hooked = features(model, images)[0]
    for ours in (*features(model, images), hooked):
        assert_equal_to_rounding(ours, wanted)
    assert_tunes_and_folds(model, images)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("name", NARROW)
def test_a_checkpoint_of_open_clip(tmp_path, register, name, activation):
    shape, path = NARROW[name], tmp_path / "epoch_1.pt"
    torch.manual_seed(0)
    register("narrow", open_clip_config(shape, activation))
    theirs = shaken(their_open_clip.create_model("narrow"))
    wrapped = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    torch.save({"epoch": 1, "name": "narrow", "state_dict": wrapped}, path)
    model, images = build(f"open_clip:narrow@{path}"), torch.randn(3, 3, shape.pixels, shape.pixels)
    with torch.no_grad():
        wanted = theirs.encode_image(images), theirs.encode_text(model.text.tokens)
    for ours in features(model, images):
        assert_equal_to_rounding(ours, wanted)
    assert_tunes_and_folds(model, images)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_a_folded_model_is_the_next_backbone_bit_by_bit(tmp_path, register, activation):
    register("narrow", open_clip_config(NARROW["ViT-H/14"], activation))
    torch.manual_seed(0)
    torch.save(shaken(their_open_clip.create_model("narrow")).state_dict(), tmp_path / "first.pt")
    model = build(f"open_clip:narrow@{tmp_path}/first.pt")
    with torch.no_grad():
        for parameter in model.adapters.parameters():
            parameter.normal_(0, 0.3)
    folded = model.fold()
    torch.save(folded.state_dict(), tmp_path / "folded.pt")
    images = torch.randn(2, 3, 28, 28)
    for again in (build(f"open_clip:narrow@{tmp_path}/folded.pt", "ZeroshotCLIP"), build(folded, "ZeroshotCLIP")):
        for ours, before in zip(features(again, images)[0], features(model, images)[0]):
            assert torch.equal(ours, before)


def cached(monkeypatch, tmp_path, **files):
    """Files as the hub's cache keeps them, and no network."""
    from huggingface_hub import constants

    snapshot = tmp_path / f"models--{REPO.replace('/', '--')}" / "snapshots" / "c0ffee"
    if files:
        snapshot.mkdir(parents=True)
        (snapshot.parent.parent / "refs").mkdir()
        (snapshot.parent.parent / "refs" / "main").write_text("c0ffee")
    for name, path in files.items():
        (snapshot / name).symlink_to(path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_a_hub_name_is_read_from_the_cache_without_network(tmp_path, monkeypatch):
    torch.manual_seed(0)
    theirs = save_transformers(NARROW["ViT-B/32"], tmp_path / "model", "gelu")
    processor = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 2}
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(processor))
    cached(monkeypatch, tmp_path / "hub", **{path.name: path for path in (tmp_path / "model").iterdir()})
    model = build(f"hf:{REPO}")
    weight = theirs.vision_model.encoder.layers[0].mlp.fc1.weight
    assert torch.equal(model.vision.blocks[0].mlp.c_fc.weight, weight) and not model.vision.is_quick_gelu
    from PIL import Image

    assert model.preprocess(Image.new("RGB", (70, 64), "white")).mean() == 2  # (1 - 0.5) / 0.25


def test_open_clips_own_format_is_read_from_a_folder(tmp_path):
    from safetensors.torch import save_file

    config = {"model_cfg": open_clip_config(NARROW["ViT-H/14"], "gelu"), "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "config.json").write_text('{"architecture": "vit"}')  # timm's
    theirs = shaken(their_open_clip.CLIP(**config["model_cfg"]))
    save_file(theirs.state_dict(), str(tmp_path / "open_clip_model.safetensors"))
    model = build(str(tmp_path), "ZeroshotCLIP")
    assert (model.vision.heads, model.vision.is_quick_gelu) == (4, False)
    assert torch.equal(model.clip.visual.conv1.weight, theirs.visual.conv1.weight)
    assert find(str(tmp_path)).preprocessing.mean == (0.5, 0.5, 0.5) and find(str(tmp_path)).input_size() == 28


@pytest.mark.parametrize("name", [f"hf:{REPO}", "open_clip:ViT-B-16/laion2b_s34b_b88k"])
def test_without_network_one_sentence_says_where_the_weights_are_looked_for(tmp_path, monkeypatch, name):
    folder = cached(monkeypatch, tmp_path)
    with pytest.raises(UserError) as refused:
        promptbias.load_clip(name)
    said = str(refused.value)
    assert all(word in said for word in (str(folder), "HF_HOME", "https://huggingface.co", "HF_ENDPOINT"))
    assert "\n" not in said


@pytest.mark.slow
def test_commands_which_import_less_of_torchvision_can_import_open_clip():
    code = (
        "import promptbias; from promptbias.utils.errors import cli; cli(lambda: promptbias.load_clip('open_clip:a/b'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith('error: open_clip has no model "a"'), done.stderr


@pytest.mark.parametrize("name, package", [("hf:a/b", "huggingface_hub"), ("open_clip:ViT-B-16/openai", "open_clip")])
def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs {package}.*; pip install 'promptbias\[export\]'"):
        find(name)


@pytest.mark.parametrize(
    "name, said",
    [
        ("open_clip:ViT-B-16", "<model>/<tag>"),
        ("open_clip:ViT-B-61/openai", 'no model "ViT-B-61"'),
        ("open_clip:ViT-B-16/laion", 'no weights "laion" for ViT-B-16'),
        ("open_clip:ViT-B-16/openai", "open_clip:ViT-B-16-quickgelu/openai"),
        ("open_clip:ViT-B-16-SigLIP/webli", "not of OpenAI's ViT architecture"),
        ("open_clip:xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k", "hf_model_name"),
        ("open_clip:RN50-quickgelu/openai", "vision_cfg.layers"),
        ("open_clip:EVA02-B-16/merged2b_s8b_b131k", "timm_model_name"),
        ("open_clip:ViT-B-16@nowhere.pt", "there is no file nowhere.pt"),
    ],
)
def test_what_open_clip_cannot_give_is_refused(name, said):
    with pytest.raises(UserError) as refused:
        find(name).weights()
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_weights_of_another_architecture_say_which(tmp_path, register):
    register("narrow", open_clip_config(NARROW["ViT-B/16"], "gelu"))
    register("other", open_clip_config(NARROW["ViT-L/14"], "gelu"))
    torch.save(their_open_clip.create_model("other").state_dict(), tmp_path / "clip.pt")
    with pytest.raises(
        UserError, match="patches of 16 pixels, but the weights are one of width 128, 3 blocks and pat.* 14"
    ):
        promptbias.load_clip(f"open_clip:narrow@{tmp_path}/clip.pt")


@pytest.mark.parametrize(
    "config, said",
    [
        ({"model_type": "siglip"}, 'a "siglip"'),
        ({}, "no model_type"),
        ({"model_type": "clip", "vision_config": {"hidden_act": "gelu_new"}}, "the activation gelu_new"),
        ({"model_type": "clip", "text_config": {"eos_token_id": 1}}, "OpenAI's tokenizer"),
        ({"model_type": "clip", "text_config": {"num_attention_heads": "8"}}, "Expected `int`, got `str`"),
        ({"model_type": "clip"}, "none of model.safetensors"),
        ([], "cannot be read as JSON"),
    ],
)
def test_what_a_config_says_is_checked(tmp_path, config, said):
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=said):
        find(str(tmp_path)).weights()


def test_old_configs_say_it_twice_and_the_dict_counts(tmp_path):
    old = {"text_config": {"hidden_act": "quick_gelu"}, "text_config_dict": {"hidden_act": "gelu"}}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip", **old, "vision_config_dict": None}))
    backbone = find(str(tmp_path))
    assert (backbone.text.activation, backbone.vision.activation) == ("gelu", "quick_gelu")
    assert (backbone.text.heads, backbone.vision.heads, backbone.input_size()) == (8, 12, 224)  # transformers' defaults


def test_other_weights_in_a_hugging_face_folder_are_refused():
    with pytest.raises(UserError, match="it has no positional_embedding|it has no logit_scale"):
        huggingface.from_transformers({"a": torch.zeros(1)}, "x")


def test_shards_are_put_together(tmp_path):
    torch.manual_seed(0)
    theirs = save_transformers(NARROW["ViT-B/32"], tmp_path, "gelu")
    theirs.save_pretrained(tmp_path / "sharded", max_shard_size="5MB")
    assert (tmp_path / "sharded" / huggingface.INDEX).exists()
    whole, parts = (find(str(folder)).weights() for folder in (tmp_path, tmp_path / "sharded"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[key], parts[key]) for key in whole)
    next((tmp_path / "sharded").glob("*00001*")).unlink()
    with pytest.raises(UserError, match="is not complete"):
        find(str(tmp_path / "sharded")).weights()


def test_a_backbone_brings_its_image_size_mean_and_interpolation(tmp_path):
    from promptbias.engine.config import setup_cfg
    from promptbias.engine.discovery import register_all
    from promptbias.engine.train import parse_args

    register_all()
    config = {"model_type": "clip", "vision_config": {"image_size": 336}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    processor = {"image_processor": {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2}}
    (tmp_path / "processor_config.json").write_text(json.dumps(processor))

    def inputs(*words):
        flags = ["--config-file", f"{ROOT}/configs/trainers/BiasTuning/vit_b16.yaml", *words]
        found = setup_cfg(parse_args(flags)).INPUT
        return found.SIZE, found.PIXEL_MEAN[0], found.PIXEL_STD[0], found.INTERPOLATION

    openais = 0.48145466, 0.26862954, "bicubic"
    assert inputs() == ((224, 224), *openais)
    assert inputs("--backbone", "ViT-L/14@336px") == ((336, 336), *openais)
    assert inputs("--backbone", str(tmp_path)) == ((336, 336), 0.5, 0.5, "bilinear")
    own = "MODEL.BACKBONE.NAME", str(tmp_path), "INPUT.SIZE", "(8, 8)", "INPUT.INTERPOLATION", "nearest"
    assert inputs(*own) == ((8, 8), 0.5, 0.5, "nearest")
