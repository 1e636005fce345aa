"""compat/dassl: learning rates and optimizers."""

import math

import pytest
import torch
from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from hypothesis import given, settings
from hypothesis import strategies as st


def optim_cfg(**keys):
    cfg = get_cfg_default().OPTIM
    cfg.update({"NAME": "sgd", "LR": 0.0025, "MAX_EPOCH": 10, "LR_SCHEDULER": "cosine", **keys})
    return cfg


def learning_rates(cfg, epochs=None, scheduler_state=None, start=0):
    """The learning rate of each epoch, and the state after them."""
    optimizer = build_optimizer([torch.nn.Parameter(torch.zeros(1))], cfg)
    scheduler = build_lr_scheduler(optimizer, cfg)
    if scheduler_state:
        scheduler.load_state_dict(scheduler_state)
        optimizer.param_groups[0]["lr"] = scheduler.get_last_lr()[0]
    out = []
    for _ in range(start, epochs or cfg.MAX_EPOCH):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return out, scheduler.state_dict()


def test_the_papers_schedule():
    got, _ = learning_rates(optim_cfg(WARMUP_EPOCH=1, WARMUP_TYPE="constant", WARMUP_CONS_LR=1e-5))
    assert got == pytest.approx(
        [
            1e-5,
            2.5e-3,
            2.438821e-3,
            2.261271e-3,
            1.984732e-3,
            1.636271e-3,
            1.25e-3,
            8.637288e-4,
            5.152684e-4,
            2.387288e-4,
        ],
        rel=1e-6,
    )


def test_cosine_without_warmup():
    got, _ = learning_rates(optim_cfg(LR=1.0))
    assert got == pytest.approx([(1 + math.cos(math.pi * e / 10)) / 2 for e in range(10)])


def test_linear_warmup_starts_at_the_lowest_learning_rate():
    got, _ = learning_rates(optim_cfg(LR=1.0, WARMUP_EPOCH=4, WARMUP_TYPE="linear", WARMUP_MIN_LR=0.01))
    assert got[:6] == pytest.approx([0.01, 0.25, 0.5, 0.75, 1.0, (1 + math.cos(math.pi / 10)) / 2])


def test_steps():
    assert learning_rates(optim_cfg(LR=1.0, LR_SCHEDULER="single_step", STEPSIZE=(4,), GAMMA=0.5))[0] == pytest.approx(
        [1] * 4 + [0.5] * 4 + [0.25] * 2
    )
    assert learning_rates(optim_cfg(LR=1.0, LR_SCHEDULER="single_step"), epochs=12)[0] == pytest.approx(
        [1] * 10 + [0.1] * 2
    )
    assert learning_rates(optim_cfg(LR=1.0, LR_SCHEDULER="multi_step", STEPSIZE=(2, 5, 7)))[0] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.001]
    )


def test_without_recount_the_schedule_advances_during_warmup():
    shared = dict(LR=1.0, WARMUP_EPOCH=3, WARMUP_TYPE="constant", LR_SCHEDULER="multi_step", STEPSIZE=(5,))
    assert learning_rates(optim_cfg(WARMUP_RECOUNT=True, **shared), 10)[0][3:] == pytest.approx([1] * 5 + [0.1] * 2)
    assert learning_rates(optim_cfg(WARMUP_RECOUNT=False, **shared), 10)[0][3:] == pytest.approx([1] * 2 + [0.1] * 5)


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(["cosine", "single_step", "multi_step"]),
    kind=st.sampled_from(["constant", "linear"]),
    warmup=st.integers(0, 4),
    stop=st.integers(0, 9),
    recount=st.booleans(),
)
def test_a_resumed_schedule_is_exact(name, kind, warmup, stop, recount):
    cfg = optim_cfg(LR_SCHEDULER=name, WARMUP_TYPE=kind, WARMUP_EPOCH=warmup, WARMUP_RECOUNT=recount, STEPSIZE=[3, 4])
    whole, _ = learning_rates(cfg)
    first, state = learning_rates(cfg, epochs=stop) if stop else ([], None)
    assert first + learning_rates(cfg, scheduler_state=state, start=stop)[0] == whole


def test_the_state_is_plain_data():
    _, state = learning_rates(optim_cfg(WARMUP_EPOCH=1))
    plain = (int, float, bool, str, type(None))
    for value in state.values():
        assert isinstance(value, plain) or all(isinstance(v, plain) for v in value)


def test_sgd_has_momentum_and_weight_decay():
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = build_optimizer([weight], optim_cfg(LR=0.1))
    expected, velocity = [1.0, -2.0], [0.0, 0.0]
    for step in range(3):
        weight.grad = torch.tensor([0.5, step * 1.0])
        optimizer.step()
        for i, gradient in enumerate([0.5, step * 1.0]):
            velocity[i] = 0.9 * velocity[i] + gradient + 5e-4 * expected[i]
            expected[i] -= 0.1 * velocity[i]
    assert weight.tolist() == pytest.approx(expected, rel=1e-5)


def test_radam_rectifies_and_decays_the_weights_themselves():
    weight = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = build_optimizer([weight], optim_cfg(NAME="radam", LR=0.01, WEIGHT_DECAY=0.1))
    w, mean, square, limit = 1.0, 0.0, 0.0, 2 / (1 - 0.999) - 1
    for t in range(1, 12):
        gradient = math.sin(t)
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        length = limit - 2 * t * 0.999**t / (1 - 0.999**t)
        w -= 0.01 * 0.1 * w
        update = mean / (1 - 0.9**t)
        if length > 5:
            rectified = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
            update *= math.sqrt(rectified) * math.sqrt(1 - 0.999**t) / math.sqrt(square)
        w -= 0.01 * update
        assert weight.item() == pytest.approx(w, rel=1e-5)
    assert optimizer.param_groups[0]["weight_decay"] == 0.1


@pytest.mark.parametrize("name", ["adam", "amsgrad", "adamw", "rmsprop", "radam", "sgd"])
def test_every_optimizer_descends(name):
    model = torch.nn.Linear(3, 1)
    optimizer = build_optimizer(model, optim_cfg(NAME=name, LR=0.01))
    images = torch.eye(3)
    losses = []
    for _ in range(20):
        loss = (model(images) - 1).pow(2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_staged_learning_rates():
    model = torch.nn.Sequential()
    model.add_module("backbone", torch.nn.Linear(2, 2))
    model.add_module("head", torch.nn.Linear(2, 2))
    base, new = build_optimizer(model, optim_cfg(STAGED_LR=True, NEW_LAYERS=("head",), LR=1.0)).param_groups
    assert (base["lr"], new["lr"]) == (0.1, 1.0) and new["params"] == list(model.head.parameters())


def test_given_parameter_groups_take_precedence():
    weight = torch.nn.Parameter(torch.zeros(1))
    groups = build_optimizer(None, optim_cfg(LR=1.0), param_groups=[{"params": [weight], "lr": 0.5}]).param_groups
    assert groups[0]["lr"] == 0.5


@pytest.mark.parametrize(
    "key, value, error",
    [
        ("NAME", "sgdd", ValueError),
        ("LR_SCHEDULER", "cosin", ValueError),
        ("WARMUP_TYPE", "quadratic", ValueError),
    ],
)
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(key, value, error):
    cfg = optim_cfg(WARMUP_EPOCH=1, **{key: value})
    with pytest.raises(error, match=f"OPTIM.{key} must be .*{value}"):
        build_lr_scheduler(build_optimizer([torch.nn.Parameter(torch.zeros(1))], cfg), cfg)
