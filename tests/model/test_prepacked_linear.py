"""Linear layers with frozen weights against the same product written in float64."""

import gc

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from promptbias.model import prepacked_linear as prepacked
from promptbias.model.prepacked_linear import EVERY, linear

CLOSE = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.bfloat16: {"rtol": 1e-2, "atol": 2e-2}}
needs_packing = pytest.mark.skipif(prepacked.packed_weights is None, reason="this torch packs nothing")
ROWS = [EVERY, slice(8), slice(8, 24)]


def weight_and_bias(dtype=torch.float32, n=24, k=16):
    return (torch.randn(n, k) / 4).to(dtype), torch.randn(n).to(dtype)


def exact(x, weight, bias, rows):
    """The product and, of its sum weighted by 1, 2, ..., the gradient of x."""
    x, weight, bias = (t.detach().double() for t in (x, weight[rows], bias[rows]))
    y = torch.einsum("...k,mk->...m", x, weight) + bias
    return y, torch.einsum("...m,mk->...k", ramp(y), weight)


def ramp(y):
    return torch.arange(1, y.numel() + 1, dtype=y.dtype, device=y.device).view(y.shape) / y.numel()


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_packing)])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("size", [(5,), (2, 5), (2, 3, 5)])
def test_the_product_and_the_gradient(dtype, rows, size):
    weight, bias = weight_and_bias(dtype)
    x = torch.randn(*size, 16, dtype=dtype, requires_grad=True)
    y = linear(x, weight, bias, rows)
    y.backward(ramp(y))
    assert y.dtype == dtype
    for found, expected in zip((y, x.grad), exact(x, weight, bias, rows)):
        torch.testing.assert_close(found.double(), expected, **CLOSE[dtype])


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 70), k=st.integers(1, 70), tokens=st.integers(1, 40))
def test_any_size(n, k, tokens):
    (weight, bias), x = weight_and_bias(n=n, k=k), torch.randn(tokens, k)
    torch.testing.assert_close(
        linear(x, weight, bias).double(), exact(x, weight, bias, EVERY)[0], **CLOSE[torch.float32]
    )


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_packing)])
def test_silu_of_the_product(dtype):
    """In one operation where nothing needs a gradient, and with the gradients of x and of the bias where they do."""
    weight, bias = weight_and_bias(dtype)
    x = torch.randn(3, 5, 16, dtype=dtype)
    given = [t.detach().double().requires_grad_() for t in (x, bias)]
    expected = F.silu(given[0] @ weight.double().T + given[1])
    torch.testing.assert_close(linear(x, weight, bias, silu=True).double(), expected, **CLOSE[dtype])
    wanted = x.requires_grad_(), bias.requires_grad_()
    gradients = torch.autograd.grad(linear(x, weight, bias, silu=True).sum(), wanted)
    for found, of in zip(gradients, torch.autograd.grad(expected.sum(), given)):
        torch.testing.assert_close(found.double(), of, rtol=CLOSE[dtype]["rtol"] * 4, atol=CLOSE[dtype]["atol"] * 4)


def test_some_of_the_tokens():
    (weight, bias), x = weight_and_bias(), torch.randn(2, 7, 16)
    torch.testing.assert_close(linear(x[:, :5], weight, bias), linear(x, weight, bias)[:, :5])


def test_a_weight_that_changes_is_packed_again():
    layer, x = torch.nn.Linear(16, 24).requires_grad_(False), torch.randn(3, 16)

    def check():
        y = linear(x.to(layer.weight), layer.weight, layer.bias)
        torch.testing.assert_close(
            y.double(), exact(x, layer.weight, layer.bias, EVERY)[0], **CLOSE[layer.weight.dtype]
        )

    check()
    layer.weight.mul_(2)
    check()
    layer.load_state_dict(torch.nn.Linear(16, 24).state_dict())
    check()
    layer.to(torch.bfloat16)
    check()


def test_a_trained_weight_gets_its_gradient():
    x, weight, bias = torch.randn(5, 16), torch.randn(24, 16, requires_grad=True), torch.randn(24)
    linear(x, weight, bias).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0).expand(24, -1))


@needs_packing
def test_nothing_is_kept_for_backward():
    (weight, bias), x, kept = weight_and_bias(), torch.randn(5, 16, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        linear(x, weight, bias)
    assert not kept


@needs_packing
def test_a_packed_weight_goes_with_its_weight():
    gc.collect()  # what other tests have left
    before, (weight, bias) = len(prepacked.packed_weights), weight_and_bias()
    linear(torch.randn(5, 16), weight, bias)
    assert len(prepacked.packed_weights) == before + 1
    del weight
    gc.collect()
    assert len(prepacked.packed_weights) == before


def test_autocast_chooses_the_dtype():
    (weight, bias), x = weight_and_bias(), torch.randn(5, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16


def test_without_packing_the_product_is_torchs(monkeypatch):
    monkeypatch.setattr(prepacked, "packed_weights", None)
    (weight, bias), x = weight_and_bias(), torch.randn(5, 16)
    assert torch.equal(linear(x, weight, bias, slice(8)), F.linear(x, weight[:8], bias[:8]))
