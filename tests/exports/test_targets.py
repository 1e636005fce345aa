"""Each target: what its library loads by the lines of the folder's README, against the tuned model."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from prompted_clips import CLASSES, deep_prompts, tuned_at_random
from safetensors.torch import load_file
from versions import needs_export, needs_packages

import promptbias
from promptbias.exports.source import Source
from promptbias.exports.to_open_clip import known_name
from promptbias.model.images import OPENAIS, Preprocessing
from promptbias.trainers.bias_tuning import BiasTuningConfig
from promptbias.trainers.ln_tuning import LNTuningConfig
from promptbias.trainers.zeroshot import ZeroshotConfig

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
CLOSE = {"rtol": 1e-4, "atol": 1e-3}  # of logits up to 14
IN_FLOAT16 = {"rtol": 0, "atol": 0.1}  # of what rounds weights


@pytest.fixture(scope="module")
def pictures():
    """Noise of the size that the small CLIP sees, so that no resizing differs between libraries."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(8)]


@pytest.fixture
def loaded(monkeypatch):
    """loaded(folder, image=...): the names that the README's lines define, given some that they need."""

    def run(folder, **names):
        (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
        monkeypatch.chdir(folder)
        exec(code, names)
        return SimpleNamespace(**names)

    return run


@pytest.fixture
def exported(sharp_clip, pictures, tmp_path):
    """exported(method, to): the tuned model, its logits of the pictures, the folder, and the check."""

    def make(method, to, blocks=3, **options):
        for transformer in (sharp_clip.transformer, sharp_clip.visual.transformer):
            transformer.resblocks = transformer.resblocks[:blocks]
        model = tuned_at_random(sharp_clip, method)
        check = promptbias.export(model, to, tmp_path / to, images=pictures, **options)
        pixels = torch.stack([model.preprocess(picture) for picture in pictures])
        logits = model.logits(pixels)
        return SimpleNamespace(model=model, logits=logits, pixels=pixels, folder=tmp_path / to, check=check)

    return make


def test_clip_loads_the_file_and_it_is_a_backbone(exported, loaded):
    from clip import clip

    it = exported(BiasTuningConfig(), "clip")
    path = str(it.folder / "model.pt")
    state = torch.load(path, weights_only=True)
    assert all(t.dtype == torch.float32 for t in state.values() if t.is_floating_point())
    stock, biases = it.model.clip.state_dict(), it.model.adapters.vision.bias
    key = "visual.transformer.resblocks.1.mlp.c_proj.bias"
    assert torch.equal(state[key], stock[key] + biases[1])
    tokens = clip.tokenize([f"a photo of a {name}." for name in CLASSES])
    logits, _ = loaded(it.folder).model(it.pixels, tokens)
    torch.testing.assert_close(logits, it.logits, **IN_FLOAT16)
    assert it.check.pixels.difference == pytest.approx(float((logits - it.logits).abs().max()), rel=0.01)
    again = promptbias.build("ZeroshotCLIP", CLASSES, backbone=path, precision="fp32").eval()
    torch.testing.assert_close(again.logits(it.pixels), it.logits, **IN_FLOAT16)


@needs_packages("transformers")
def test_transformers_pipeline_predicts_the_same(exported, loaded, pictures):
    it = exported(BiasTuningConfig(), "hf")
    pictures[0].save(it.folder / "some.jpg")
    its = loaded(it.folder)
    assert its.classes == CLASSES
    predictions = its.pipe(pictures, candidate_labels=its.classes, hypothesis_template="a photo of a {}.")
    for found, expected in zip(predictions, it.logits.softmax(-1)):
        scores = {entry["label"]: entry["score"] for entry in found}
        torch.testing.assert_close(torch.tensor([scores[name] for name in CLASSES]), expected, rtol=1e-3, atol=1e-4)


@needs_packages("transformers", "peft")
@pytest.mark.parametrize(
    "method, kind, numbers", [(BiasTuningConfig(), "BEFT", 3 * 2 * 128), (LNTuningConfig(), "LN_TUNING", 15 * 2 * 128)]
)
def test_peft_adapts_the_stock_model(exported, loaded, method, kind, numbers):
    """Loaded again, and merged; the base as it is, is the model before tuning."""
    it = exported(method, "peft")
    assert json.loads((it.folder / "adapter_config.json").read_text())["peft_type"] == kind
    assert sum(t.numel() for t in load_file(it.folder / "adapter_model.safetensors").values()) == numbers
    inputs, its = {"pixel_values": it.pixels, "input_ids": it.model.text.tokens}, loaded(it.folder)
    torch.testing.assert_close(its.model(**inputs).logits_per_image, it.logits, **CLOSE)
    with its.model.disable_adapter(), it.model.base():
        torch.testing.assert_close(its.model(**inputs).logits_per_image, it.model.logits(it.pixels), **CLOSE)
    torch.testing.assert_close(its.model.merge_and_unload()(**inputs).logits_per_image, it.logits, **CLOSE)


@needs_packages("open_clip")
def test_open_clip_loads_the_folder(exported, loaded, pictures):
    it = exported(BiasTuningConfig(), "open_clip")
    its = loaded(it.folder)
    pixels = torch.stack([its.preprocess(picture) for picture in pictures])
    torch.testing.assert_close(pixels, it.pixels)
    f, g, scale = its.model.eval()(pixels, its.tokenizer([f"a photo of a {name}." for name in CLASSES]))
    torch.testing.assert_close(scale * f @ g.T, it.logits, **CLOSE)


@needs_packages("open_clip")
def test_what_the_backbone_says_of_its_images_goes_along(sharp_clip, exported):
    sharp_clip.preprocessing = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "bilinear")
    it = exported(BiasTuningConfig(), "open_clip", blocks=1)
    assert it.check.preprocessed.difference < 1e-3
    facts = json.loads((it.folder / "export.json").read_text())
    assert facts["image"] == {"size": 32, "interpolation": "bilinear", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}


@needs_packages("open_clip")
def test_open_clip_has_names_for_openais_architectures():
    """As a configuration is written, it is the one that open_clip knows by this name."""
    from clip.model import CLIP

    with torch.device("meta"):
        stock = CLIP(512, 224, 12, 768, 16, 77, 49408, 512, 8, 12)
    visual = SimpleNamespace(visual=stock.visual, blocks=stock.visual.transformer.resblocks, width=768, heads=12)
    text = SimpleNamespace(blocks=stock.transformer.resblocks, width=512, heads=8)
    model = SimpleNamespace(clip=stock, vision=visual, text=text, context_length=77, preprocessing=OPENAIS)
    assert known_name(Source(model, [])) == "ViT-B-16-quickgelu"  # type: ignore[arg-type]


@needs_packages("onnx", "onnxscript", "onnxruntime")
def test_onnx_holds_prompts_and_classes(exported, loaded):
    import onnx

    it = exported(deep_prompts(2, 2), "onnx", blocks=2)
    assert onnx.load(it.folder / "model.onnx").opset_import[0].version == 18
    session = loaded(it.folder, images=it.pixels.numpy()).session
    for batch in (1, 3, 7):
        image = torch.randn(batch, 3, 32, 32)
        (logits,) = session.run(None, {"image": image.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), it.model.logits(image), **CLOSE)


@needs_packages("onnx", "onnxscript", "onnxruntime")
def test_onnx_in_two_towers_takes_texts_of_any_number(exported, loaded):
    from clip import clip

    it = exported(BiasTuningConfig(), "onnx", blocks=1, two_towers=True)
    image, stock = it.pixels.numpy(), it.model.fold()
    for texts in (["a dog"], ["one", "two", "a longer sentence of some words"]):
        tokens = clip.tokenize(texts).long()
        found = loaded(it.folder, image=image, tokens=tokens.numpy()).logits
        expected, _ = stock(it.pixels, tokens)
        torch.testing.assert_close(torch.from_numpy(found), expected, **CLOSE)


@needs_export
def test_torch_export_holds_prompts_and_classes(exported, loaded):
    it = exported(deep_prompts(), "torch")
    for batch in (1, 3, 7):
        image = torch.randn(batch, 3, 32, 32)
        torch.testing.assert_close(loaded(it.folder, images=image).logits, it.model.logits(image), **CLOSE)


@needs_packages("transformers", "peft")
def test_peft_needs_something_that_was_trained(exported):
    with pytest.raises(promptbias.UserError, match="this model is its stock CLIP, .*take --to hf"):
        exported(ZeroshotConfig(), "peft")
