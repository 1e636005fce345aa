"""Each target: what its library loads from the folder, against the tuned model, by the library's own calls."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from prompted_clips import CLASSES, deep_prompts, tuned_at_random
from safetensors.torch import load_file

import promptbias
from promptbias.trainers.bias_tuning import BiasTuningConfig
from promptbias.trainers.ln_tuning import LNTuningConfig
from promptbias.trainers.zeroshot import ZeroshotConfig

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
CLOSE = {"rtol": 1e-4, "atol": 1e-3}  # of logits up to 14


@pytest.fixture(scope="module")
def pictures():
    """Noise of the size that the small CLIP sees, so that no resizing differs between libraries."""
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(8)]


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


def test_clip_loads_the_file_and_it_is_a_backbone(exported):
    from clip import clip

    it = exported(BiasTuningConfig(), "clip")
    path = str(it.folder / "model.pt")
    state = torch.load(path, weights_only=True)
    assert all(t.dtype == torch.float32 for t in state.values() if t.is_floating_point())
    stock, biases = it.model.clip.state_dict(), it.model.adapters.vision.bias
    key = "visual.transformer.resblocks.1.mlp.c_proj.bias"
    assert torch.equal(state[key], stock[key] + biases[1])
    loaded, preprocess = clip.load(path, device="cpu")
    logits, _ = loaded(it.pixels, clip.tokenize([f"a photo of a {name}." for name in CLASSES]))
    torch.testing.assert_close(logits, it.logits, rtol=0, atol=0.3)  # weights in float16
    assert it.check.pixels.difference == pytest.approx(float((logits - it.logits).abs().max()), rel=0.01)
    again = promptbias.build("ZeroshotCLIP", CLASSES, backbone=path, precision="fp32").eval()
    torch.testing.assert_close(again.logits(it.pixels), it.logits, rtol=0, atol=0.3)


def test_transformers_pipeline_predicts_the_same(exported, pictures):
    from transformers import pipeline

    it = exported(BiasTuningConfig(), "hf")
    pipe = pipeline("zero-shot-image-classification", model=str(it.folder))
    labels = list(pipe.model.config.id2label.values())
    assert labels == CLASSES
    probabilities = it.logits.softmax(-1)
    for found, expected in zip(
        pipe(pictures, candidate_labels=labels, hypothesis_template="a photo of a {}."), probabilities
    ):
        scores = {entry["label"]: entry["score"] for entry in found}
        torch.testing.assert_close(torch.tensor([scores[name] for name in labels]), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "method, kind, numbers", [(BiasTuningConfig(), "BEFT", 3 * 2 * 128), (LNTuningConfig(), "LN_TUNING", 15 * 2 * 128)]
)
def test_peft_adapts_the_stock_model(exported, method, kind, numbers):
    """Loaded again, and merged; the base as it is, is the model before tuning."""
    from peft import PeftModel
    from transformers import CLIPModel

    it = exported(method, "peft")
    assert json.loads((it.folder / "adapter_config.json").read_text())["peft_type"] == kind
    assert sum(t.numel() for t in load_file(it.folder / "adapter_model.safetensors").values()) == numbers
    base = CLIPModel.from_pretrained(it.folder / "base")
    inputs = {"pixel_values": it.pixels, "input_ids": it.model.text.tokens}
    plain = base(**inputs).logits_per_image
    with it.model.base():
        torch.testing.assert_close(plain, it.model.logits(it.pixels), **CLOSE)
    again = PeftModel.from_pretrained(base, it.folder)
    torch.testing.assert_close(again(**inputs).logits_per_image, it.logits, **CLOSE)
    torch.testing.assert_close(again.merge_and_unload()(**inputs).logits_per_image, it.logits, **CLOSE)


def test_open_clip_loads_the_folder(exported, pictures):
    import open_clip

    it = exported(BiasTuningConfig(), "open_clip")
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{it.folder}")
    pixels = torch.stack([preprocess(picture) for picture in pictures])
    torch.testing.assert_close(pixels, it.pixels)
    tokens = open_clip.get_tokenizer(f"local-dir:{it.folder}")([f"a photo of a {name}." for name in CLASSES])
    f, g, scale = model.eval()(pixels, tokens)
    torch.testing.assert_close(scale * f @ g.T, it.logits, **CLOSE)


def in_onnxruntime(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (entry.name for entry in session.get_inputs())
    return lambda tensor: torch.from_numpy(session.run(None, {name: tensor.numpy()})[0])


def test_onnx_holds_prompts_and_classes(exported):
    import onnx

    it = exported(deep_prompts(2, 2), "onnx", blocks=2)
    path = it.folder / "model.onnx"
    assert onnx.load(path).opset_import[0].version == 18
    run = in_onnxruntime(path)
    for batch in (1, 3, 7):
        image = torch.randn(batch, 3, 32, 32)
        torch.testing.assert_close(run(image), it.model.logits(image), **CLOSE)


def test_onnx_in_two_towers_takes_texts_of_any_number(exported):
    from clip import clip

    it = exported(BiasTuningConfig(), "onnx", blocks=1, two_towers=True)
    of_images, of_texts = (in_onnxruntime(it.folder / f"{name}_encoder.onnx") for name in ("image", "text"))
    stock = it.model.fold()
    torch.testing.assert_close(of_images(it.pixels), torch.nn.functional.normalize(stock.encode_image(it.pixels)))
    for texts in (["a dog"], ["one", "two", "a longer sentence of some words"]):
        tokens = clip.tokenize(texts).long()
        expected = torch.nn.functional.normalize(stock.encode_text(tokens))
        torch.testing.assert_close(of_texts(tokens), expected, rtol=1e-4, atol=1e-5)


def test_torch_export_holds_prompts_and_classes(exported):
    it = exported(deep_prompts(), "torch")
    program = torch.export.load(it.folder / "model.pt2").module()
    for batch in (1, 3, 7):
        image = torch.randn(batch, 3, 32, 32)
        torch.testing.assert_close(program(image), it.model.logits(image), **CLOSE)


def test_peft_needs_something_that_was_trained(exported):
    with pytest.raises(promptbias.UserError, match="this model is its stock CLIP, .*take --to hf"):
        exported(ZeroshotConfig(), "peft")
