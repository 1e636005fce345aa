"""Which columns of attention are which tokens."""

import pytest
from interp_fixtures import CLASSES, T

from promptbias.interp.token_layout import end_name, text_columns, vision_columns
from promptbias.model.loading import import_clip


def test_vision_columns_are_cls_patches_and_prompts(models):
    assert vision_columns(models["deep"]) == {"cls": slice(0, 1), "patches": slice(1, 17), "prompts": slice(17, 20)}
    assert vision_columns(models["plain"])["prompts"] == slice(17, 17)


@pytest.mark.parametrize("kind", ["deep", "plain", "bias", "norm"])
def test_text_columns_are_named_as_the_tokens_stand(models, kind):
    clip, _ = import_clip()
    columns = text_columns(models[kind], 1)
    names = list(columns)
    assert names == ["SOS", "prompts", "template", "class", "end", "EOS"]
    assert all(columns[a].stop == columns[b].start for a, b in zip(names, names[1:]))
    row = models[kind].text.tokens[1].tolist()
    assert row[columns["class"]] == clip.tokenize(CLASSES[1])[0, 1:4].tolist()
    assert row[columns["end"]] == clip.tokenize(".")[0, 1:2].tolist()
    assert row[columns["EOS"].start] == max(row)
    length = T if kind == "deep" else 0
    assert columns["prompts"].stop - columns["prompts"].start == length
    assert columns["template"].stop - columns["template"].start == 4 - length


def test_vision_prompts_alone_leave_the_template(make):
    model = make("VPT", "VPT.N_CTX", 2)
    assert vision_columns(model)["prompts"] == slice(17, 19)
    columns = text_columns(model, 0)
    assert columns["prompts"] == slice(1, 1) and columns["template"] == slice(1, 5)


def test_what_follows_the_class_name_is_a_dot_unless_a_template_has_words_there(make, models):
    pets = make("BiasTuning", "BIASTUNING.TEMPLATE", "a photo of a {}, a type of pet.")
    assert end_name(models.values()) == "“.”"
    assert end_name([models["plain"], pets]) == "words after the class name"
