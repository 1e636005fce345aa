"""The figures about attention and relevancy, computed, plotted and described on small finished runs."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from promptbias.analysis import contribution, distance, entropy, eos_attention, figures, heatmap, shares
from promptbias.analysis.commands import make_parser
from promptbias.analysis.comparison import Comparison
from promptbias.analysis.shares import KINDS
from promptbias.interp.relevancy import Relevancy, relevancy
from promptbias.interp.token_layout import text_columns
from promptbias.utils.errors import UserError

MODULES = {
    "contribution": contribution,
    "eos-attention": eos_attention,
    "distance": distance,
    "entropy": entropy,
    "heatmap": heatmap,
}


def result_of(name, comparison, *argv):
    args = make_parser().parse_args([name, "--model-dir", "", *map(str, argv)])
    return MODULES[name].run(comparison, args)


@pytest.mark.parametrize("name", MODULES)
def test_results_do_not_depend_on_the_batch_size(name, comparison, monkeypatch):
    results = []
    for size in (12, 5):
        monkeypatch.setattr(comparison, "batch_size", size)
        results.append(result_of(name, comparison))
    whole, parts = results
    assert whole.arrays.keys() == parts.arrays.keys()
    for key, values in whole.arrays.items():
        np.testing.assert_allclose(values, parts.arrays[key], rtol=1e-3, atol=1e-5, err_msg=key)
    assert [what for what, _ in whole.headlines] == [what for what, _ in parts.headlines]


@pytest.mark.parametrize("name", MODULES)
def test_a_figure_can_be_used_step_by_step(name, comparison):
    """As in a notebook: compute, plot, describe; the command does the same."""
    module = MODULES[name]
    found = module.compute(comparison)
    result = result_of(name, comparison)
    assert list(module.plot(found)) == list(result.figures)
    assert module.describe(found) == result.how_to_read and module.headlines(found) == result.headlines


def test_contributions_are_shares(comparison):
    found = contribution.compute(comparison)
    for label, model in comparison.models.items():
        mine = found.models[label]
        assert mine.text.sum() == pytest.approx(1) and mine.vision.sum() == pytest.approx(1)
        assert mine.patches_alone.sum() == pytest.approx(1) and mine.text_kinds.sum() == pytest.approx(1)
        assert not mine.text[int(model.text.tokens.argmax(-1).max()) :].any()
        assert len(mine.vision) == 16 + {"deep prompts 3+4": 3, "shallow prompts 4+4": 4}.get(label, 0)
    assert found.models["zero-shot CLIP"].rank_correlation == pytest.approx(1)


def test_patches_are_ranked_against_plain_clip_in_every_run(comparison):
    """And not against the run before it in the comparison."""
    found = contribution.compute(comparison)
    batches = list(comparison.batches())
    image, label = (torch.cat(parts) for parts in zip(*batches))
    patches = {name: relevancy(model, image, label).vision[:, :16] for name, model in comparison.models.items()}
    for name, of_model in found.models.items():
        expected = [spearmanr(*pair).statistic for pair in zip(patches["zero-shot CLIP"], patches[name])]
        np.testing.assert_allclose(of_model.rank_correlation_by_image, expected, atol=0.02)


def test_one_set_of_samples_for_all_curves(comparison):
    """ "corrected" are the images that plain CLIP gets wrong and the tuned run gets right, for every model alike."""
    wanted = []
    with torch.no_grad():
        for image, label in comparison.batches():
            plain, tuned = (model(image).argmax(-1) == label for model in (comparison.plain, comparison.tuned))
            wanted += (~plain & tuned).tolist()
    if not any(wanted):
        pytest.skip("the tuned run corrects nothing here")
    result = result_of("contribution", comparison, "--select", "corrected")
    assert result.headlines[0] == ("images", sum(wanted))
    assert "that zero-shot CLIP gets wrong and the tuned run gets right" in result.how_to_read


def test_relevancy_can_start_at_a_later_block(comparison):
    first, last = (contribution.compute(comparison, first_block=i).models["bias"].vision for i in (0, 2))
    by_command = result_of("contribution", comparison, "--first-block", 3).arrays["bias: vision"]
    assert np.abs(first - last).max() > 1e-3 and np.array_equal(by_command, last)


def test_images_without_relevancy_are_left_out_of_the_means_and_said(comparison):
    """Against shares computed one image at a time, from a block on at which some images have none."""
    found = contribution.compute(comparison, first_block=2)
    for label, model in comparison.models.items():
        kinds, prompts, empty = [], [], {"text": 0, "vision": 0}
        for image, k in zip(torch.cat(list(comparison.images())), [0] * 4 + [1] * 4 + [2] * 4):
            vision, text = (rows[0] for rows in relevancy(model, image[None], torch.tensor([k]), 2))
            empty["text"] += not text.any()
            empty["vision"] += not vision.any()
            if text.any():
                kinds.append([float(text[text_columns(model, k)[kind]].sum() / text.sum()) for kind in KINDS])
            if vision.any():
                prompts.append(float(vision[16:].sum() / vision.sum()))
        mine = found.models[label]
        assert mine.without_relevancy == empty
        np.testing.assert_allclose(mine.text_kinds, np.mean(kinds, 0), atol=1e-5)
        assert np.nanmean(mine.vision_prompts_by_image) == pytest.approx(np.mean(prompts), abs=1e-5)
        assert mine.text.sum() == pytest.approx(1) and mine.vision.sum() == pytest.approx(1)
        for branch, count in empty.items():
            assert (f"{count} in the {branch} branch of {label}" in contribution.describe(found)) == (count > 0)


def test_a_row_of_zeros_is_left_out_whatever_the_model(comparison, monkeypatch):
    """The first two images are made to have none in text, then all of them none at all."""

    def without(model, image, label, first_block=0):
        vision, text = relevancy(model, image, label, first_block)
        text[:2] = 0
        return Relevancy(vision, text)

    monkeypatch.setattr(shares, "relevancy", without)
    found = contribution.compute(comparison)
    for model in found.models.values():
        assert model.without_relevancy == {"text": 2, "vision": 0} and model.text.sum() == pytest.approx(1)
        assert model.text_kinds.sum() == pytest.approx(1)
    assert "left out of the means: 2 in the text branch of zero-shot CLIP, 2 in" in contribution.describe(found)
    assert ("images without relevancy, text, bias", 2) in contribution.headlines(found)
    monkeypatch.setattr(shares, "relevancy", lambda *args: Relevancy(*(0 * rows for rows in relevancy(*args))))
    with pytest.raises(UserError, match="from block 3 on, no image has any relevancy .* in zero-shot CLIP; .*--first"):
        contribution.compute(comparison, first_block=2)


def test_the_same_figure_is_the_same_file(comparison, tmp_path):
    for folder in ("a", "b"):
        figures.save(result_of("eos-attention", comparison), str(tmp_path / folder), "eos-attention")
    names = [path.name for path in (tmp_path / "a").iterdir() if path.suffix != ".npz"]  # a zip, which holds the time
    assert len(names) == 3
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_templates_that_differ_are_named_in_figures_about_text(runs):
    for name in ("contribution", "eos-attention"):
        differs = Comparison(runs["bias"], template="an image of {}, a kind of place.")
        same = Comparison(runs["bias"], template="dataset")
        assert differs.template_note() and result_of(name, differs).how_to_read.endswith(differs.template_note())
        assert "--template" not in result_of(name, same).how_to_read


def test_what_follows_the_class_name_is_a_dot_only_where_it_is_one(runs, comparison):
    pets = Comparison(runs["bias"], template="a photo of a {}, a type of pet.")
    for name in ("contribution", "eos-attention"):
        with_dots, with_words = ([what for what, _ in result_of(name, c).headlines] for c in (comparison, pets))
        assert any("“.”" in what for what in with_dots) and not any("words after" in what for what in with_dots)
        assert any("words after the class name" in what for what in with_words)
        assert not any("“.”" in what for what in with_words)


def test_prompts_and_words_share_a_panel_only_where_no_model_has_both(comparison, make):
    titles = list(eos_attention.panels(comparison))
    assert titles == ["SOS", "prompts or template words", "class name", "“.”", "EOS"]
    both = SimpleNamespace(models={**comparison.models, "2 prompts": make("IVLP", "IVLP.N_CTX_TEXT", 2)})
    assert list(eos_attention.panels(both)) == ["SOS", "prompts", "template words", *titles[2:]]


def test_prompts_are_mentioned_only_where_there_are_some(comparison, runs):
    bias = Comparison(runs["bias"])
    for name in ("entropy", "distance"):
        assert "w/o prompt" in result_of(name, comparison).how_to_read
        assert "w/o prompt" not in result_of(name, bias).how_to_read
    found = heatmap.compute(bias, angles=[0])
    assert found.prompts == 0 and list(heatmap.plot(found)) == ["heatmap", "heatmap-correlation"]
    assert list(found.correlations) == ["attention"] and "similarity" not in heatmap.describe(found)


def test_maps_are_of_the_named_blocks_and_heads(comparison):
    result = result_of("heatmap", comparison, "--angles", 0, 270, "--blocks", 3, "--heads", 2)
    assert "mean over heads 2" in result.how_to_read and "all heads" not in result.how_to_read
    maps = result.arrays["270 degrees, [cls] attention, CLIP"]
    assert maps.shape == (1, 32, 32) and maps.min() == 0 and maps.max() == pytest.approx(1)
    assert {"0 degrees, prompt 3", "0 degrees, prompt similarity", "correlation: shortness"} < set(result.arrays)
    whole = result_of("heatmap", comparison, "--angles", 270).arrays["270 degrees, [cls] attention, CLIP"]
    assert len(whole) == 3 and np.abs(whole[2] - maps[0]).max() > 1e-3


# ---- where a figure cannot tell


@pytest.mark.parametrize("plain, undecided", [(31.05, True), (20.0, False)])
def test_distance_says_where_it_has_no_power(plain, undecided):
    panel = figures.HeadPanel("zero-shot CLIP", np.full((2, 2), plain), 0)
    found = distance.Distance([panel, panel], 33.09, False)
    assert found.undecided == undecided
    assert ("cannot tell: zero-shot CLIP is at 31.1 of 33.1 pixels" in distance.describe(found)) == undecided


def test_entropy_names_the_largest_departure_of_a_block():
    plain, tuned = np.full((3, 2), 2.0), np.array([[2.4, 2.4], [1.6, 1.6], [2.0, 2.0]])
    panels = [figures.HeadPanel("CLIP", plain, 0), figures.HeadPanel("tuned", tuned, 1)]
    numbers = dict(entropy.headlines(entropy.Entropy(panels, panels, False)))
    assert numbers["mean attention entropy in nats, tuned: [cls]"] == pytest.approx(2)  # departures cancel out
    assert numbers["largest departure of a block from CLIP in nats, tuned: [cls]"] == pytest.approx(0.4)
