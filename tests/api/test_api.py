"""What a script or a notebook calls, on the small CLIP."""

import copy
import json
import shutil

import pytest
import torch
from PIL import Image

import promptbias
from promptbias.api import short_name
from promptbias.utils.errors import UserError

NAMES = ["cat", "dog", "sea lion"]


@pytest.fixture
def model(small_clip):
    return promptbias.build("BiasTuning", NAMES, backbone=small_clip, precision="fp32", init_std=0.2).eval()


@pytest.fixture
def picture():
    return Image.effect_noise((40, 50), 80)


def test_a_model_from_plain_arguments(small_clip, model):
    assert model.classnames == NAMES and model.template == "a photo of a {}." and model.label == "bias"
    image = torch.randn(2, 3, 32, 32)
    assert model.logits(image).shape == (2, 3) and model.image_features(image).shape == (2, 32)
    assert torch.equal(model.logits(image), model(image))
    torch.testing.assert_close(model.text_features().norm(dim=-1), torch.ones(3))


def test_images_paths_and_tensors_give_the_same_prediction(model, picture, tmp_path):
    picture.save(tmp_path / "noise.png")
    tensor = model.preprocess(picture.convert("RGB"))[None]
    expected = model.logits(tensor).softmax(-1)
    for images in (picture, [picture], str(tmp_path / "noise.png"), [tmp_path / "noise.png"], tensor):
        names, probabilities = model.predict(images)
        torch.testing.assert_close(probabilities, expected)
        assert names == [NAMES[int(expected.argmax())]]
    assert len(model.predict([picture] * 5, batch_size=2).names) == 5


@pytest.mark.parametrize(
    "images, said",
    [
        ("nothing.png", "nothing.png cannot be read as an image"),
        ([], "no image to predict"),
        (torch.zeros(2, 3, 8, 8), r"must be \(B, 3, 32, 32\), not \(2, 3, 8, 8\)"),
        ([3], "must be PIL images, paths or a tensor"),
    ],
)
def test_what_is_not_an_image_is_one_sentence(model, images, said):
    with pytest.raises(UserError, match=said):
        model.predict(images)


def test_a_text_file_is_not_an_image(model, tmp_path):
    (tmp_path / "note.jpg").write_text("not an image")
    with pytest.raises(UserError, match="note.jpg cannot be read as an image"):
        model.predict(str(tmp_path / "note.jpg"))


@pytest.mark.parametrize(
    "method, options, said",
    [
        ("BiasTunning", {}, 'there is no method "BiasTunning": did you mean "BiasTuning"'),
        ("BiasTuning", {"dept_text": 1}, 'no option "dept_text": did you mean "depth_text"'),
        ("BiasTuning", {"depth_text": 9}, "DEPTH_TEXT is 9, but must be between 0 and 3"),
        ("LNTuning", {"rank": 4}, 'LNTuning has no option "rank"'),
        ("BiasTuning", {"node": "x"}, 'BiasTuning has no option "node"'),
        ("ZeroshotCLIP", {"consistency": 1}, 'ZeroshotCLIP has no option "consistency": it has none'),
    ],
)
def test_methods_and_options_that_do_not_exist(small_clip, method, options, said):
    with pytest.raises(UserError) as refused:
        promptbias.build(method, NAMES, backbone=small_clip, **options)
    assert said in str(refused.value)


def test_depths_that_leave_blocks_out_are_said(small_clip, train_run, capsys):
    def said(**options):
        model = promptbias.build("IVLP", NAMES, backbone=small_clip, precision="fp32", **options)
        return model.method.partial_depths(model.vision, model.text)

    assert said() == said(prompt_depth_vision=0, prompt_depth_text=1) == said(prompt_depth_vision=3) == []
    assert said(prompt_depth_text=2) == ["TRAINER.IVLP.PROMPT_DEPTH_TEXT is 2, and the branch has 3 blocks (-1: all)"]
    train_run("partial", "BiasTuning", "TRAINER.BIASTUNING.DEPTH_TEXT", 2)
    assert "Note: TRAINER.BIASTUNING.DEPTH_TEXT is 2, and the branch has 3 blocks" in capsys.readouterr().out


@pytest.mark.parametrize(
    "backbone, name",
    [
        ("tiny", "tiny"),
        ("ViT-B/16", "vit_b16"),
        ("ViT-L/14@336px", "vit_l14_336px"),
        ("hf:openai/clip-vit-base-patch32", "hf_openai_clip_vit_base_patch32"),
        ("open_clip:ViT-B-16/laion2b_s34b_b88k", "open_clip_vit_b_16_laion2b_s34b_b88k"),
        ("openai:{}/My CLIP.pt", "my_clip"),
    ],
)
def test_what_a_folder_is_called_after_its_backbone(backbone, name, tmp_path):
    (tmp_path / "My CLIP.pt").touch()
    assert short_name(backbone.format(tmp_path)) == name


def test_every_method_describes_itself():
    methods = promptbias.methods()
    assert {"BiasTuning", "IVLP", "LNTuning", "VPT", "ZeroshotCLIP"} <= set(methods)
    assert methods["BiasTuning"].folds and not methods["IVLP"].folds and not methods["ZeroshotCLIP"].trains


def test_relevancy_of_one_image(model, picture):
    found = promptbias.relevancy(model, picture, "dog")
    assert found.patches.shape == (4, 4) and len(found.prompts) == 0
    assert len(found.tokens) == 7  # SOS, a, photo, of, a, dog, "."
    for row in (found.patches, found.tokens):
        assert float(row.sum()) == pytest.approx(1, abs=1e-5)
    by_index = promptbias.relevancy(model, model.preprocess(picture.convert("RGB")), 1)
    torch.testing.assert_close(by_index.patches, found.patches)


@pytest.mark.parametrize("classname", ["dogg", 3])
def test_a_class_that_the_model_does_not_have(model, picture, classname):
    with pytest.raises(UserError, match="the model has no class"):
        promptbias.relevancy(model, picture, classname)


def test_a_folded_model_predicts_the_same(small_clip, model, picture):
    _, before = model.predict(picture)
    stock = copy.deepcopy(model.fold())
    again = promptbias.build("ZeroshotCLIP", NAMES, backbone=stock, precision="fp32").eval()
    torch.testing.assert_close(again.predict(picture).probabilities, before, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_tune_a_folder_of_images(tmp_path):
    for name, shade in (("bright", 200), ("dark", 40)):
        for part, count in (("train", 3), ("test", 2)):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (64, 64), (shade + i,) * 3).save(tmp_path / "images" / part / name / f"{i}.png")
    arguments = {"backbone": "tiny", "shots": 2, "output": tmp_path / "run", "settings": ["OPTIM.MAX_EPOCH", "1"]}
    model = promptbias.tune(tmp_path / "images", "BiasTuning", depth_text=0, **arguments)
    assert model.classnames == ["bright", "dark"] and model.label == "bias, depth 12+0"
    assert model.adapters.vision.bias.abs().max() > 0
    again = promptbias.tune(tmp_path / "images", "BiasTuning", depth_text=0, **arguments)
    assert torch.equal(again.adapters.vision.bias, model.adapters.vision.bias)
    with pytest.raises(UserError, match="another config"):
        promptbias.tune(tmp_path / "images", "BiasTuning", depth_text=1, **arguments)


@pytest.mark.slow
def test_a_run_of_the_first_version_is_loaded_as_one_of_today(run, tmp_path):
    """Its results do not name the classes; precision and preprocessing are still the run's."""
    today = promptbias.load(run[0], precision="bf16")
    old = shutil.copytree(run[0], tmp_path / "old")
    results = json.loads((old / "results.json").read_text())
    del results["classnames"], results["sealed"], results["sha256"]
    (old / "results.json").write_text(json.dumps(results))
    loaded = promptbias.load(old, precision="bf16")
    assert loaded.classnames == today.classnames and loaded.precision == today.precision == "bf16"
    assert str(loaded.preprocess) == str(today.preprocess)
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.logits(image), today.logits(image))
