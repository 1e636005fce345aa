"""Agreement of maps with masks, against counting by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from promptbias.interp.foreground import agreement, patch_foreground, share_inside


def test_patches_of_a_mask():
    mask = torch.zeros(1, 6, 6)
    mask[0, :3, :2] = 1
    expected = [mask[0, 3 * r : 3 * r + 3, 3 * c : 3 * c + 3].mean() for r in range(2) for c in range(2)]
    assert torch.allclose(patch_foreground(mask, 2)[0], torch.stack(expected))


def plain_average_precision(scores, relevant):
    """Area under the steps of precision over recall, ties together."""
    found = 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen, new = scores >= threshold, scores == threshold
        found += relevant[chosen].mean() * relevant[new].sum() / relevant.sum()
    return found


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_agreement(seed):
    random = np.random.RandomState(seed)
    maps, foreground = random.randint(0, 5, (4, 9)).astype(float), random.rand(4, 9)
    maps[3] = 0
    foreground[2] = 0.2  # nothing is foreground
    found = agreement(torch.tensor(maps), torch.tensor(foreground))
    for i in range(4):
        relevant = foreground[i] > 0.5
        if i == 3 or not maps[i].any() or relevant.all() or not relevant.any():
            assert all(values[i].isnan() for values in found)
            continue
        assert found.share[i].item() == pytest.approx((maps[i] * foreground[i]).sum() / maps[i].sum())
        assert found.pointing[i] == relevant[maps[i].argmax()]
        assert found.precision[i].item() == pytest.approx(plain_average_precision(maps[i], relevant))


def test_a_uniform_map_has_the_area():
    foreground = torch.rand(2, 9)
    foreground[:, 0], foreground[:, 1] = 0.9, 0.1
    uniform = torch.ones(2, 3, 2, 9)
    assert torch.allclose(share_inside(uniform, foreground), foreground.mean(-1)[:, None, None].expand(2, 3, 2))


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_of_an_image_without_foreground_or_background_nothing_is_said(fraction):
    foreground = torch.tensor([[fraction] * 4, [0.9, 0.1, 0.0, 0.0]])
    shares = share_inside(torch.ones(2, 3, 4), foreground)
    assert shares[0].isnan().all() and torch.allclose(shares[1], torch.full((3,), 0.25))
