"""The consistency term of the loss against a plain computation; switched off, it costs nothing."""

import copy

import pytest
import torch
import torch.nn.functional as F

from promptbias.model.tuned_clip import TunedCLIP
from promptbias.trainers.bias_tuning import BiasTuningConfig
from promptbias.trainers.ivlp import IVLPConfig
from promptbias.trainers.zeroshot import ZeroshotConfig
from promptbias.utils.errors import UserError

NAMES = ["cat", "dog", "sea lion"]
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
LABELS = torch.tensor([0, 2, 1, 0])


def tuned(clip_model, config):
    torch.manual_seed(1)
    model = TunedCLIP(copy.deepcopy(clip_model), NAMES, config, "a drawing of a {}.", precision="fp32")
    with torch.no_grad():
        for parameter in model.adapters.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@torch.no_grad()
def plain_terms(stock, model, texts):
    """The three terms, from the stock CLIP's own encoders and the tuned model's unit features."""
    from clip import clip

    frozen = [F.normalize(f, dim=-1) for f in (stock.encode_image(IMAGES), stock.encode_text(clip.tokenize(texts)))]
    ours = model.image_features(IMAGES), model.text_features()
    before, after = ((stock.logit_scale.exp() * f @ t.t()).softmax(-1) for f, t in (frozen, ours))
    image, text = (sum(1 - a @ b for a, b in zip(*pair)) / len(pair[0]) for pair in zip(ours, frozen))
    kl = sum(p * (p / q).log() for p, q in zip(before.flatten(), after.flatten())) / len(IMAGES)
    return {"image": image, "text": text, "logits": kl}


@pytest.mark.parametrize("terms", [("image",), ("text",), ("logits",), ("text", "logits", "image")])
@pytest.mark.parametrize(
    "config, template",
    [
        (BiasTuningConfig, "a drawing of a {}."),
        (lambda **more: IVLPConfig(prompt_depth_vision=2, prompt_depth_text=2, **more), "a photo of a {}."),
    ],
)
def test_the_term_is_what_it_says(random_clip, config, template, terms):
    plain = tuned(random_clip, config())
    model = tuned(random_clip, config(consistency=3.0, consistency_of=terms))
    expected = plain_terms(random_clip, plain.eval(), [template.format(name) for name in NAMES])
    extra = model.train()(IMAGES, LABELS) - plain.train()(IMAGES, LABELS)
    torch.testing.assert_close(extra, 3 * sum(expected[term] for term in terms), rtol=1e-3, atol=1e-4)


def test_it_pulls_the_tuned_model_towards_the_frozen_one(random_clip):
    model = tuned(random_clip, BiasTuningConfig(consistency=1.0, consistency_of=("image", "text", "logits")))
    optimizer = torch.optim.SGD(model.adapters.parameters(), lr=0.1)
    with torch.no_grad(), model.base():
        base = model.eval()(IMAGES)

    def step():
        loss = model.train()(IMAGES, LABELS) - F.cross_entropy(model.logits(IMAGES), LABELS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    before, far = step(), (model.logits(IMAGES) - base).abs().mean()
    after = [step() for _ in range(5)][-1]
    assert after < before and (model.logits(IMAGES) - base).abs().mean() < far


def test_frozen_texts_are_encoded_once_and_frozen_images_only_where_they_are_compared(random_clip, monkeypatch):
    passes = {"text": 0, "image": 0}
    model = tuned(random_clip, BiasTuningConfig(consistency=1.0, consistency_of=("text",))).train()
    encode = model._encode

    def counted(tower, *args):
        passes["image" if tower is model.vision else "text"] += 1
        return encode(tower, *args)

    monkeypatch.setattr(model, "_encode", counted)
    for _ in range(3):
        model(IMAGES, LABELS)
    assert passes == {"image": 3, "text": 3 + 1}
    model.method.consistency = 0.0
    model(IMAGES, LABELS)
    assert passes == {"image": 4, "text": 5}


@pytest.mark.parametrize(
    "options, said",
    [
        ({"consistency": -1.0}, "CONSISTENCY is -1.0, but must be at least 0"),
        ({"consistency": 1.0, "consistency_of": ()}, "CONSISTENCY_OF is [], but must be some of image, text, logits"),
        ({"consistency_of": ("texts",)}, "CONSISTENCY_OF is ['texts']"),
    ],
)
def test_terms_that_do_not_exist_are_refused(random_clip, options, said):
    with pytest.raises(UserError) as refused:
        tuned(random_clip, BiasTuningConfig(**options))
    assert said in str(refused.value)


def test_every_method_that_trains_has_the_option_and_it_is_off():
    assert BiasTuningConfig.options()["CONSISTENCY"] == IVLPConfig.options()["CONSISTENCY"] == 0
    assert set(ZeroshotConfig.options()) == {"PREC", "TEMPLATE"}
