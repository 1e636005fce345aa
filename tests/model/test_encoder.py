"""A tower against the stock CLIP, which computes every position of a text and every row of a block."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptbias.model import encoder, layouts
from promptbias.model.adapter import Adapter
from promptbias.model.encoder import TextTower, VisionTower
from promptbias.model.prompts import DeepPrompts, VisionPrompts

BLOCKS, WIDTH, PATCHES, SOS, EOS = 3, 128, 16, 49406, 49407
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


class BlockBias(Adapter):
    """A random bias after each of the first `depth` blocks."""

    attaches_to = ("resid_post",)

    def __init__(self, depth, width, std=0.0):
        super().__init__()
        self.bias = torch.nn.Parameter(std * torch.randn(depth, width))

    def post_block(self, i, x):
        return x + self.bias[i].to(x.dtype) if i < len(self.bias) else x


def texts(*rows):
    """Token ids (K, 77): SOS, the given words, EOS, zeros."""
    ids = torch.zeros(len(rows), 77, dtype=torch.long)
    for row, words in zip(ids, rows):
        row[: len(words) + 2] = torch.tensor([SOS, *words, EOS])
    return ids


def plain(blocks, x, adapter):
    """(B, N, D) through the stock blocks, with an adapter's prompts and biases inserted."""
    for i, block in enumerate(blocks):
        if isinstance(adapter, DeepPrompts) and 0 < i < len(adapter.prompts):
            x = in_place(x, adapter, i)
        x = block(x.transpose(0, 1)).transpose(0, 1)
        if isinstance(adapter, BlockBias) and i < len(adapter.bias):
            x = x + adapter.bias[i]
    return x


def in_place(x, adapter, i):
    parts = list(x.unbind(1)) + [None] * (adapter.prompts_at.stop - x.shape[1])
    for row, prompt in zip(range(adapter.prompts_at.start, adapter.prompts_at.stop), adapter.prompts[i]):
        parts[row] = prompt.expand(len(x), -1)
    return torch.stack(parts, 1)


def plain_text(clip, ids, adapter):
    """All 77 positions of each text -> (K, d)."""
    x = clip.token_embedding(ids)
    if isinstance(adapter, DeepPrompts):
        x = in_place(x, adapter, 0)
    x = clip.ln_final(plain(clip.transformer.resblocks, x + clip.positional_embedding, adapter))
    return torch.stack([row[row_ids.argmax()] for row, row_ids in zip(x, ids)]) @ clip.text_projection


def plain_image(clip, image, adapter):
    visual = clip.visual
    x = visual.conv1(image).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    if isinstance(adapter, DeepPrompts):
        x = in_place(x, adapter, 0)
    return visual.ln_post(plain(visual.transformer.resblocks, visual.ln_pre(x), adapter)[:, 0]) @ visual.proj


def agree(fast, slow, adapter):
    """Same features, and the same gradients of a scalar in which every feature has its own weight."""
    torch.testing.assert_close(fast, slow, **CLOSE)
    weight = torch.linspace(-1, 1, slow.numel()).view(slow.shape)
    found, expected = (
        torch.autograd.grad((weight * features).sum(), list(adapter.parameters())) for features in (fast, slow)
    )
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()) + 1e-7)


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def frozen(random_clip):
    return copy.deepcopy(random_clip).requires_grad_(False)


SAME_LENGTH = texts([320, 1125, 539, 11], [320, 1125, 539, 12])
ODD = texts([5, 6, 7], [5, 6, 7, 8, 9, 10], [5, 6, 9], [5, 6])  # a text that is the beginning of another, a short one
LISTS = {
    "several lengths": texts([320, 1125, 539, 11, 269], [320, 1125, 539, 12, 13, 14, 269], [320, 1125, 539, 15, 269]),
    "one length": SAME_LENGTH,
    "one text": SAME_LENGTH[:1],
    "twice the same": SAME_LENGTH[[0, 0]],
    "nothing but SOS in common": texts([11, 7100, 269], [12, 13, 7100, 269], [14, 7100, 269]),
    "one begins another": ODD,
    "an empty text": texts([], [4, 5]),
    "as long as can be": texts(list(range(300, 375)), [300, 301]),
}


@pytest.mark.parametrize("ids", LISTS.values(), ids=LISTS)
def test_plain_towers_are_the_stock_clip(frozen, images, ids):
    torch.testing.assert_close(TextTower(frozen, ids)(Adapter()), frozen.encode_text(ids), **CLOSE)
    torch.testing.assert_close(VisionTower(frozen)(images, Adapter()), frozen.encode_image(images), **CLOSE)


@pytest.mark.parametrize("ids", LISTS.values(), ids=LISTS)
def test_packed_texts_with_biases_equal_all_positions_of_each(frozen, ids):
    adapter = BlockBias(BLOCKS, WIDTH, std=0.3)
    agree(TextTower(frozen, ids)(adapter), plain_text(frozen, ids, adapter), adapter)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.lists(st.integers(300, 303), max_size=7), min_size=1, max_size=6), depth=st.integers(0, BLOCKS))
def test_any_texts_packed_equal_all_positions_of_each(frozen, rows, depth):
    ids, adapter = texts(*rows), BlockBias(depth, WIDTH, std=0.3)
    torch.testing.assert_close(TextTower(frozen, ids)(adapter), plain_text(frozen, ids, adapter), **CLOSE)


@pytest.mark.parametrize("depth", [1, 2, BLOCKS])
@pytest.mark.parametrize("n", [1, 3])
def test_prompts_in_texts(frozen, depth, n):
    ids = texts(*([343] * n + words for words in ([11, 269], [12, 13, 14, 269], [15, 269])))
    adapter = DeepPrompts(depth, n, WIDTH, at=1)
    agree(TextTower(frozen, ids)(adapter), plain_text(frozen, ids, adapter), adapter)


@pytest.mark.parametrize("depth", [1, 2, BLOCKS])
@pytest.mark.parametrize("n", [1, 5])
def test_prompts_among_patches(frozen, images, depth, n):
    adapter = VisionPrompts(depth, n, WIDTH, at=1 + PATCHES)
    agree(VisionTower(frozen)(images, adapter), plain_image(frozen, images, adapter), adapter)


@pytest.mark.parametrize("depth", [0, 1, BLOCKS])
def test_biases_among_patches(frozen, images, depth):
    adapter = BlockBias(depth, WIDTH, std=0.3)
    slow, fast = plain_image(frozen, images, adapter), VisionTower(frozen)(images, adapter)
    if depth:
        agree(fast, slow, adapter)
    else:
        torch.testing.assert_close(fast, slow, **CLOSE)


def look_only(value, point):
    """A hook that leaves everything as it is: the layout in full and attention in float32."""


@pytest.mark.parametrize("make", [lambda at: BlockBias(BLOCKS, WIDTH, 0.3), lambda at: DeepPrompts(2, 2, WIDTH, at)])
def test_a_hook_that_only_looks_changes_nothing(frozen, images, make):
    ids = texts(*([343] * 2 + words for words in ([11, 269], [12, 13, 14, 269], [15, 269])))
    for tower, at, arguments in ((TextTower(frozen, ids), 1, ()), (VisionTower(frozen), 1 + PATCHES, (images,))):
        adapter = make(at)
        without = tower(*arguments, adapter)
        with tower.hooked({"*": look_only}):
            agree(tower(*arguments, adapter), without, adapter)


def test_texts_by_index_with_and_without_hooks(frozen):
    tower, which = TextTower(frozen, LISTS["several lengths"]), torch.tensor([2, 0, 0])
    every = tower(Adapter())
    torch.testing.assert_close(tower(Adapter(), which), every[which])
    with tower.hooked({"blocks.0.resid_pre": look_only}):
        torch.testing.assert_close(tower(Adapter(), which), every[which], **CLOSE)


@pytest.mark.parametrize("ids", LISTS.values(), ids=LISTS)
def test_padded_texts_with_biases_equal_all_positions_of_each(frozen, ids):
    """A GPU pads few texts, where a CPU packs them."""
    adapter, longest = BlockBias(BLOCKS, WIDTH, std=0.3), int(ids.argmax(-1).max()) + 1
    agree(TextTower(frozen, ids).encode_padded(adapter, ids, longest), plain_text(frozen, ids, adapter), adapter)


def test_prompts_in_padded_texts(frozen):
    ids, adapter = texts([343, 343, 269], [343, 343, 12, 13, 269]), DeepPrompts(BLOCKS, 2, WIDTH, at=1)
    agree(TextTower(frozen, ids).encode_padded(adapter, ids, 7), plain_text(frozen, ids, adapter), adapter)


@pytest.mark.skipif(not hasattr(F, "scaled_dot_product_attention"), reason="torch before 2.0")
def test_causal_attention_is_the_fused_one():
    q, k, v = torch.randn(3, 2, 4, 7, 16).unbind()
    fused = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(layouts.attention(q, k, v, causal=True), fused, **CLOSE)
    torch.testing.assert_close(layouts.attention(q[..., -2:, :], k, v, causal=True), fused[..., -2:, :], **CLOSE)


def test_attention_written_out_is_the_fused_one(monkeypatch):
    """Torch before 2.0 has only the former."""
    q, k, v = torch.randn(3, 2, 4, 7, 16).unbind()
    fused = layouts.attention(q, k, v)
    monkeypatch.delattr(layouts.F, "scaled_dot_product_attention", raising=False)
    torch.testing.assert_close(layouts.attention(q, k, v), fused, **CLOSE)


@pytest.mark.parametrize("tokens", [7, 20])
def test_attention_in_bfloat16_is_that_in_float32(tokens):
    """With gradients and without, which take other kernels; rows shorter and longer than a vector of the processor."""
    exact = torch.randn(3, 2, 4, tokens, 16).bfloat16().float().requires_grad_()
    rounded = exact.detach().bfloat16().requires_grad_()
    expected, found = (layouts.attention(*t.unbind()) for t in (exact, rounded))
    close = {"rtol": 0.02, "atol": 0.02}
    torch.testing.assert_close(found.float(), expected, **close)
    torch.testing.assert_close(layouts.attention(*rounded.detach().unbind()).float(), expected, **close)
    expected.sum().backward()
    found.sum().backward()
    torch.testing.assert_close(rounded.grad.float(), exact.grad, **close)


@pytest.mark.parametrize("adapter", [BlockBias(BLOCKS, WIDTH, std=0.3), DeepPrompts(BLOCKS, 2, WIDTH, at=1)])
def test_many_texts_a_part_at_a_time(frozen, monkeypatch, adapter):
    monkeypatch.setattr(encoder, "TEXTS_AT_ONCE", 2)
    ids = texts(*([343, 343, *range(600, 600 + k % 4), 269] for k in range(7)))
    agree(TextTower(frozen, ids)(adapter), plain_text(frozen, ids, adapter), adapter)


def test_memory_does_not_grow_with_parts(frozen, monkeypatch):
    ids, adapter = texts(*([320, 1000 + k, 269] for k in range(40))), BlockBias(BLOCKS, WIDTH)

    def kept():
        sizes = {}

        def keep(tensor):
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            TextTower(frozen, ids)(adapter)
        return sum(sizes.values())

    at_once = kept()
    monkeypatch.setattr(encoder, "TEXTS_AT_ONCE", 10)
    assert kept() < 0.1 * at_once


def test_in_bfloat16_gradients_point_the_same_way(frozen, images):
    exact, rough = BlockBias(BLOCKS, WIDTH, std=0.1), BlockBias(BLOCKS, WIDTH)
    rough.load_state_dict(exact.state_dict())
    for adapter, clip in ((exact, frozen), (rough, copy.deepcopy(frozen).bfloat16())):
        VisionTower(clip)(images, adapter).float().pow(2).sum().backward()
    assert torch.cosine_similarity(exact.bias.grad.flatten(), rough.bias.grad.flatten(), 0) > 0.99


def test_nothing_is_computed_that_is_not_read(frozen):
    """A hundred texts of six words that differ in one cost a hundred times three positions and not times 77."""
    ids = texts(*([320, 1125, 539, 320, 1000 + k, 269] for k in range(100)))
    (packed,) = TextTower(frozen, ids).packs
    assert packed.prefix == 5 and packed.ids.shape == (5 + 100 * 3,)
    assert packed.groups == [(100, 3)]
