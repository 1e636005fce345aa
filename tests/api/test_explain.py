"""`promptbias explain` and `promptbias.explain`."""

import csv
import dataclasses
import io
import os
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from prompted_clips import CLASSES, M, deep_prompts, vision_prompts

import promptbias
from promptbias.analysis.explain import main
from promptbias.interp.faithfulness import FRACTIONS
from promptbias.interp.image_text import RANDOM_ORDERS, image_texts
from promptbias.interp.relevancy import relevancy
from promptbias.model.loading import import_clip
from promptbias.model.texts import with_texts, words_of
from promptbias.trainers.bias_tuning import BiasTuningConfig
from promptbias.trainers.zeroshot import ZeroshotConfig
from promptbias.utils.errors import UserError

METHODS = {
    "prompts in place of words": deep_prompts(),
    "fewer prompts than words": deep_prompts(text_prompts=2),
    "prompts without words": deep_prompts(text_prompts=10),
    "vision prompts": vision_prompts(),
    "biases": BiasTuningConfig(),
}
TEXTS = ["a photo of a cat.", "an aardvark on a skateboard"]


@pytest.fixture(autouse=True)
def coarse_pictures(monkeypatch):
    monkeypatch.setattr("promptbias.analysis.figures.DPI", 30)
    monkeypatch.setattr("promptbias.analysis.explanation.SCREEN_DPI", 30)


@pytest.fixture
def picture():
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def batch_of(model, picture):
    return model.preprocess(picture)[None]


# Texts


@pytest.mark.parametrize("kind", METHODS)
@torch.no_grad()
def test_the_text_of_a_class_is_scored_as_the_class(tuned, images, kind):
    model = tuned(METHODS[kind])
    before, expected = list(model.classnames), model.logits(images)
    texts = [model.method.base_template(model.template).replace("{}", name) for name in CLASSES]
    torch.testing.assert_close(with_texts(model, texts).logits(images), expected, rtol=1e-4, atol=1e-4)
    assert model.classnames == before and torch.equal(model.logits(images), expected)


@pytest.mark.parametrize("kind", METHODS)
@torch.no_grad()
def test_several_texts_are_each_as_alone_and_as_with_hooks(tuned, kind):
    """Texts are packed by what they have in common, which must hold the prompts."""
    model = tuned(METHODS[kind])
    texts = [*TEXTS, "cat", "a photo of a", ""]
    together = with_texts(model, texts)
    features = together.text_features()
    with promptbias.capture(together.text):
        torch.testing.assert_close(together.text_features(), features, rtol=1e-4, atol=1e-5)
    for text, row in zip(texts, features):
        torch.testing.assert_close(with_texts(model, [text]).text_features()[0], row, rtol=1e-4, atol=1e-5)


def test_prompts_stand_in_front_of_a_text_that_does_not_begin_with_their_words(tuned):
    model = tuned()
    (row,) = with_texts(model, ["the cat"]).text.tokens
    (plain,) = import_clip()[0].tokenize("the cat")
    T = model.adapters.text.prompt_count
    assert torch.equal(row[1 : 1 + T], model.text.tokens[0, 1 : 1 + T])
    assert row[0] == plain[0] and row[1 + T : 4 + T].tolist() == plain[1:4].tolist() and not row[4 + T :].any()


def test_without_its_method_the_model_reads_a_text_as_it_is(tuned):
    with tuned(deep_prompts(text_prompts=10)).base() as base:
        other = with_texts(base, TEXTS)
    assert torch.equal(other.text.tokens, import_clip()[0].tokenize(TEXTS).long())
    assert other.adapters.trainable_parameters == 0


@pytest.mark.parametrize("words, prompts", [(76, None), (73, 4)])
def test_a_text_that_is_too_long_is_one_sentence(tuned, words, prompts):
    model = tuned(deep_prompts(text_prompts=prompts) if prompts else BiasTuningConfig())
    with pytest.raises(UserError) as refused:
        with_texts(model, ["cat " * words])
    assert re.match(r"the text \"cat cat .*…\" is longer than CLIP's 77 tokens", str(refused.value))
    assert ("4 prompts" in str(refused.value)) == bool(prompts)
    with_texts(model, ["cat " * (words - 2)])


@given(st.text("abcxyz ,.-0123", max_size=40))
def test_words_hold_all_tokens_of_a_text(text):
    tokenizer = import_clip()[0]._tokenizer
    ids = tokenizer.encode(text)
    words = words_of(ids)
    assert sum(tokens for _, tokens in words) == len(ids)
    assert "".join(word for word, _ in words) == text.replace(" ", "")


# What is computed


@pytest.mark.parametrize("kind", METHODS)
def test_relevancy_is_that_of_the_pair(tuned, images, kind):
    """Against relevancy of the class itself, and its rows by hand."""
    model, image = tuned(METHODS[kind]), images[:1]
    text = model.method.base_template(model.template).replace("{}", CLASSES[1])
    (pair,) = image_texts(with_texts(model, [text]), image)
    of_image, of_text = (row[0] for row in relevancy(model, image, torch.tensor([1])))
    np.testing.assert_allclose(pair.patches.flatten(), M * of_image[:M] / of_image[:M].sum(), rtol=1e-3, atol=1e-5)
    assert pair.vision_prompts == pytest.approx(float(of_image[M:].sum() / of_image.sum()), rel=1e-3)
    T, of_text = model.adapters.text.prompt_count, of_text / of_text.sum()
    assert pair.start == pytest.approx(float(of_text[0]), rel=1e-3)
    assert pair.text_prompts == pytest.approx(float(of_text[1 : 1 + T].sum()), rel=1e-3)
    assert pair.words[-4:] == ["permanent", "crop", "land", "."]
    np.testing.assert_allclose(pair.word_shares[-4:], of_text[of_text > 0][-4:], rtol=1e-3, atol=1e-5)
    assert pair.start + pair.text_prompts + pair.word_shares.sum() == pytest.approx(1, abs=1e-5)


def masked(gone):
    """A hook that takes columns out of attention patterns, and renormalises the rest."""

    def hook(pattern, point):
        pattern = pattern.clone()
        pattern[:, :, :, gone] = 0
        return pattern / pattern.sum(-1, keepdim=True)

    return hook


def test_deletion_follows_the_score_of_this_image(tuned, images):
    model, image = with_texts(tuned(), TEXTS), images[:1]
    for k, pair in enumerate(image_texts(model, image)):
        order = np.argsort(-pair.patches.flatten(), kind="stable")
        with torch.no_grad():
            text = model.text_features()[k]
            for fraction, score in zip(FRACTIONS, pair.deletion, strict=True):
                gone = 1 + order[: round(fraction * M)]
                with model.vision.hooked({"blocks.*.attn.pattern": masked(gone)}):
                    expected = model.logit_scale * F.normalize(model.image_features(image), dim=-1)[0] @ text
                assert score == pytest.approx(float(expected), abs=1e-3)
        assert pair.score == pair.deletion[0] and pair.random.shape == (RANDOM_ORDERS, len(FRACTIONS))
        heights = pair.deletion
        assert pair.area == pytest.approx(sum((a + b) / 20 for a, b in zip(heights, heights[1:])))


def test_random_orders_do_not_depend_on_the_other_texts(tuned, images):
    model = tuned()
    together, alone = (image_texts(with_texts(model, texts), images[:1])[-1] for texts in (TEXTS, TEXTS[1:]))
    np.testing.assert_allclose(together.random, alone.random, rtol=1e-3, atol=1e-3)
    assert len({tuple(curve) for curve in together.random.round(4).tolist()}) > RANDOM_ORDERS // 2


def test_a_map_beats_the_orders_with_a_larger_area(tuned, images):
    (pair,) = image_texts(with_texts(tuned(), TEXTS[:1]), images[:1])
    at = np.zeros_like(pair.random)
    at[: RANDOM_ORDERS // 4] = 2
    assert dataclasses.replace(pair, deletion=np.ones(len(FRACTIONS)), random=at).beaten == RANDOM_ORDERS // 4


# From Python


def test_the_plain_clip_is_the_untouched_one(tuned, sharp_clip, picture):
    model = tuned()
    ours = promptbias.explain(model, picture, TEXTS)
    theirs = promptbias.explain(sharp_clip, picture, TEXTS)
    assert list(ours.models) == ["CLIP", model.label] and list(theirs.models) == ["CLIP"]
    assert ours.texts == theirs.texts == TEXTS and theirs.predicted == {}
    for a, b in zip(ours.models["CLIP"], theirs.models["CLIP"]):
        np.testing.assert_allclose(a.patches, b.patches, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(a.word_shares, b.word_shares, rtol=1e-3, atol=1e-5)
        assert a.area == pytest.approx(b.area, abs=1e-3) and a.vision_prompts == a.text_prompts == 0
    assert all(pair.vision_prompts > 0 and pair.text_prompts > 0 for pair in ours.models[model.label])


def test_the_default_text_is_that_of_the_predicted_class(tuned, picture):
    model = tuned(deep_prompts(text_prompts=10))
    (name,), probabilities = model.predict(picture)
    explanation = promptbias.explain(model, picture)
    assert explanation.texts == [f"a photo of a {name}."]
    label, probability = explanation.predicted[model.label]
    assert label == name and probability == pytest.approx(float(probabilities.max()), abs=1e-5)
    plain = promptbias.build(ZeroshotConfig(), CLASSES, model.clip, precision="fp32").eval()
    assert explanation.predicted["CLIP"][0] == plain.predict(picture).names[0]


def test_a_model_that_was_not_tuned_has_one_map(sharp_clip, picture):
    model = promptbias.build("ZeroshotCLIP", CLASSES, sharp_clip, precision="fp32").eval()
    explanation = promptbias.explain(model, picture)
    assert list(explanation.models) == list(explanation.predicted) == ["CLIP"]


def test_the_picture_is_what_the_model_sees(tuned, picture):
    model = tuned()
    expected = np.asarray(picture) / 255
    np.testing.assert_allclose(promptbias.explain(model, picture, "cat").picture, expected, atol=1e-5)
    tensor = model.preprocess(picture)
    np.testing.assert_allclose(promptbias.explain(model, tensor, "cat").picture, expected, atol=1e-5)


def test_a_notebook_and_files(tuned, picture, tmp_path):
    explanation = promptbias.explain(tuned(), picture, TEXTS[0])
    assert Image.open(io.BytesIO(explanation._repr_png_())).width == round(7.2 * 30)
    assert explanation._repr_html_().startswith('<img alt="image" src="data:image/png;base64,')
    for name, begins in (
        ("a.png", b"\x89PNG"),
        ("b.pdf", b"%PDF"),
        ("c.svg", b"<?xml"),
        ("d.html", b"<!doctype html>"),
    ):
        explanation.save(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begins)
    with pytest.raises(UserError, match="e.gif: an explanation is saved as .png, .pdf, .svg or .html"):
        explanation.save(tmp_path / "e.gif")
    assert len(list(tmp_path.iterdir())) == 4


def test_a_stock_clip_needs_a_text(sharp_clip, picture):
    with pytest.raises(UserError, match="give at least one text"):
        promptbias.explain(sharp_clip, picture)


def test_words_that_prompts_replace_are_read_by_plain_clip_alone(tuned, picture):
    """What is written below the bars of words."""
    explanation = promptbias.explain(tuned(), picture, "a photo of a cat")
    figure = explanation.figure()
    words = next(ax for ax in figure.axes if ax.get_ylabel() == "share of relevancy")
    names = [label.get_text() for label in words.get_xticklabels()]
    assert names == ["SOS", "a", "photo", "of", "a", "prompts", "cat"]
    plain, tuned_bars = ([bar.get_height() for bar in bars] for bars in words.containers)
    assert np.isnan(tuned_bars[1:5]).all() and not np.isnan(plain[:5]).any() and plain[5] == 0 < tuned_bars[5]
    assert np.nansum(plain) == pytest.approx(1, abs=1e-5) and np.nansum(tuned_bars) == pytest.approx(1, abs=1e-5)


# From the command line


@pytest.fixture(scope="module")
def finished(train_run):
    return train_run("explain", "IVLP", "TRAINER.IVLP.N_CTX_VISION", 3)


@pytest.mark.slow
def test_the_command_writes_figures_and_one_page(finished, picture, tmp_path, capsys):
    paths = [tmp_path / "one" / "x.png", tmp_path / "two" / "x.png"]
    for path in paths:
        path.parent.mkdir()
        picture.save(path)
    out = tmp_path / "out"
    argv = [finished, *map(str, paths), "nothing.png", "--text", TEXTS[0], "<b>bold</b> & co", "--out", str(out)]
    assert main(argv) == 1
    printed = capsys.readouterr()
    assert printed.err.count("skipped: ") == 1 and "nothing.png cannot be read as an image" in printed.err
    assert printed.out.count("better than") == 2 * 2 * 2  # images, texts, models
    kinds = ("png", "pdf", "npz", "csv")
    assert sorted(os.listdir(out)) == sorted(
        [f"{stem}.{kind}" for stem in ("x", "x-2") for kind in kinds] + ["index.html"]
    )
    page = (out / "index.html").read_text()
    assert page.count("<img ") == 2 and all(f"<h2>{path}</h2>" in page for path in paths)
    assert "://" not in page and not re.search(r'(href|src)="(?!#|data:)', page)
    assert "<b>" not in page and "&lt;b&gt;bold&lt;/b&gt; &amp; co" in page
    numbers = {row[0]: row[1] for row in csv.reader((out / "x.csv").read_text().splitlines())}
    arrays = np.load(out / "x.npz")
    curve = arrays[f"CLIP, {TEXTS[0]}: deletion"]
    area = ((curve[1:] + curve[:-1]) / 20).sum()
    assert float(numbers[f"CLIP, “{TEXTS[0]}”: deletion area"]) == pytest.approx(area, rel=1e-3)


def test_a_backbone_alone_needs_no_run(weights_file, picture, tmp_path, capsys):
    picture.save(tmp_path / "x.png")
    argv = ["--backbone", weights_file, str(tmp_path / "x.png"), "--out", str(tmp_path / "out")]
    assert main([*argv, "--text", "a cat"]) == 0 and (tmp_path / "out" / "x.png").exists()
    with pytest.raises(SystemExit) as left:
        main(argv)
    assert left.value.code == 2 and "add --text" in capsys.readouterr().err


def test_nothing_is_written_where_nothing_can_be_explained(finished, picture, tmp_path, capsys):
    picture.save(tmp_path / "x.png")
    out = tmp_path / "out"
    assert main([finished, "nothing.png", "--out", str(out)]) == 1
    with pytest.raises(UserError, match="longer than CLIP's 77 tokens"):
        main([finished, str(tmp_path / "x.png"), "--text", "cat " * 90, "--out", str(out)])
    with pytest.raises(UserError, match="holds no run"):
        main([str(tmp_path), str(tmp_path / "x.png"), "--out", str(out)])
    with pytest.raises(SystemExit) as left:
        main([finished, "--out", str(out)])
    assert left.value.code == 2 and "no image is given" in capsys.readouterr().err
    assert not out.exists()
