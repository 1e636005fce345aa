"""VPT and LayerNorm tuning: what they compute, that they fold, and that the base CLIP stays untouched."""

import copy

import pytest
import torch
import torch.nn.functional as F

from promptbias.model.adapter import Adapter, Adapters
from promptbias.model.method import MethodConfig
from promptbias.model.tuned_clip import TunedCLIP
from promptbias.trainers.ln_tuning import LNTuningConfig
from promptbias.trainers.vpt import VPTConfig
from promptbias.utils.errors import UserError

NAMES = ["cat", "dog", "sea lion"]


@pytest.fixture
def image():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def label():
    return torch.tensor([0, 2, 1])


def stock_logits(clip_model, image):
    from clip import clip

    return clip_model(image, clip.tokenize([f"a photo of a {name}." for name in NAMES]))[0]


def tuned_layer_norms(small_clip, image, label):
    """A model whose LayerNorms have taken one large step."""
    model = TunedCLIP(small_clip, NAMES, LNTuningConfig(), precision="fp32")
    model.train()(image, label).backward()
    with torch.no_grad():
        for parameter in model.adapters.parameters():
            parameter -= 0.5 * parameter.grad / parameter.grad.norm()
    return model.eval()


def test_layer_norm_tuning_equals_a_stock_clip_with_these_layer_norms(small_clip, image, label):
    stock = copy.deepcopy(small_clip)
    model = tuned_layer_norms(small_clip, image, label)
    for branch, adapter in (("visual.", model.adapters.vision), ("", model.adapters.text)):
        for key, change in adapter.changes.items():
            name, block = key.split("@")
            name = (
                name.removesuffix("_weight") + ".weight"
                if name.endswith("_weight")
                else name.removesuffix("_bias") + ".bias"
            )
            place = f"{branch}{name}" if block == "-1" else f"{branch}transformer.resblocks.{block}.{name}"
            stock.get_parameter(place).data += change
    torch.testing.assert_close(model(image), stock_logits(stock, image), rtol=1e-4, atol=1e-4)


def test_gradients_of_layer_norms_are_those_of_the_stock_clip(small_clip, image, label):
    stock = copy.deepcopy(small_clip)
    F.cross_entropy(stock_logits(stock, image), label).backward()
    model = TunedCLIP(small_clip, NAMES, LNTuningConfig(), precision="fp32")
    model.train()(image, label).backward()
    changes = model.adapters.vision.changes
    expected = stock.visual.transformer.resblocks[1].ln_1.weight.grad
    torch.testing.assert_close(changes["ln_1_weight@1"].grad, expected, rtol=1e-3, atol=1e-5)
    expected = stock.ln_final.bias.grad
    torch.testing.assert_close(model.adapters.text.changes["ln_final_bias@-1"].grad, expected, rtol=1e-3, atol=1e-5)


def test_the_base_clip_is_not_the_tuned_one(small_clip, image, label):
    stock = copy.deepcopy(small_clip)
    model = tuned_layer_norms(small_clip, image, label)
    with torch.no_grad():
        tuned = model(image)
        with model.base() as base:
            untouched = base(image)
        torch.testing.assert_close(untouched, stock_logits(stock, image), rtol=1e-4, atol=1e-4)
        assert (tuned - untouched).abs().max() > 0.1
        torch.testing.assert_close(model(image), tuned)


def test_folded_layer_norms_leave_a_stock_clip(small_clip, image, label):
    model = tuned_layer_norms(small_clip, image, label)
    with torch.no_grad():
        tuned = model(image)
        stock = model.fold()
        torch.testing.assert_close(stock_logits(stock, image), tuned, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model(image), tuned, rtol=1e-4, atol=1e-4)


def test_vpt_leaves_the_text_alone_and_does_not_fold(small_clip, image):
    model = TunedCLIP(small_clip, NAMES, VPTConfig(n_ctx=2, depth_vision=1), precision="fp32").eval()
    assert [name for name, _ in model.adapters.named_parameters()] == ["vision.prompts"]
    assert model.adapters.vision.prompts.shape == (1, 2, 128) and model.label == "shallow prompts 2+0"
    with torch.no_grad(), model.base():
        text = model.text_features()
    torch.testing.assert_close(model.text_features(), text)
    with pytest.raises(UserError, match="does not fold"):
        model.fold()


def test_a_method_that_trains_clip_itself_is_refused(small_clip):
    class Greedy(Adapter):
        def __init__(self, tower):
            super().__init__()
            self.taken = tower.blocks[0].ln_1.weight

    class GreedyConfig(MethodConfig):
        node = "GREEDY"

        def adapters(self, vision, text):
            return Adapters(Greedy(vision), Adapter())

    with pytest.raises(TypeError, match="attach to them by their names"):
        TunedCLIP(small_clip, NAMES, GreedyConfig(), precision="fp32")


def test_an_adapter_inside_of_a_block(small_clip, image):
    """A bias on q, v and the MLP's hidden layer is the same as an activation, as a parameter, and folded."""

    class Inside(Adapter):
        attaches_to = ("attn.q", "attn.v", "mlp.hidden")

        def __init__(self, width):
            super().__init__()
            sizes = {"attn.q": width, "attn.v": width, "mlp.hidden": 4 * width}
            self.biases = {name: 0.1 * torch.randn(3, size) for name, size in sizes.items()}

        def on_activation(self, point, i, x, source):
            return x + self.biases[point][i]

    class Outside(Adapter):
        attaches_to = ("attn.in_proj_bias", "mlp.c_fc.bias")

        def __init__(self, inside):
            super().__init__()
            q, v = inside.biases["attn.q"], inside.biases["attn.v"]
            self.biases = {
                "attn.in_proj_bias": torch.cat([q, torch.zeros_like(q), v], 1),
                "mlp.c_fc.bias": inside.biases["mlp.hidden"],
            }

        def parameter(self, name, i, frozen):
            return frozen + self.biases[name][i]

    class InsideConfig(MethodConfig):
        node, folds = "INSIDE", True

        def adapters(self, vision, text):
            return Adapters(Inside(vision.width), Inside(text.width))

    model = TunedCLIP(small_clip, NAMES, InsideConfig(), precision="fp32").eval()
    with torch.no_grad():
        by_activation = model(image)
        model.adapters = Adapters(Outside(model.adapters.vision), Outside(model.adapters.text)).eval()
        by_parameter = model(image)
        with model.base():
            assert (model(image) - by_activation).abs().max() > 0.01
        torch.testing.assert_close(by_parameter, by_activation, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(stock_logits(model.fold(), image), by_activation, rtol=1e-4, atol=1e-4)
