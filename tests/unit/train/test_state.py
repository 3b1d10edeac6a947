"""What FSDP2 shares out is read whole, in full precision, and put back."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from pllava.stages.train import state


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_shared_out_state_is_taken_and_put_back_to_the_bit(one_process: None) -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2))
    plain[1].bias.requires_grad = False
    before = state.weights(plain)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(plain[0], mesh=mesh, mp_policy=policy)
    model = fully_shard(plain, mesh=mesh, mp_policy=policy)
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1)

    def step() -> None:
        model(torch.ones(4, 5)).float().square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    with torch.no_grad():
        model(torch.ones(4, 5))  # as a validation, which no backward pass follows
    found = state.weights(model)
    assert found.keys() == before.keys()
    assert all(torch.equal(found[name], before[name]) and found[name].dtype == torch.float32 for name in before)

    step()
    taken = state.capture(model, optimizer)
    assert {name.rsplit("/", 1)[1] for name in taken.tensors if name.startswith("optimizer/0")} == {"step", "exp_avg", "exp_avg_sq"}
    step()
    after = state.capture(model, optimizer)
    state.restore(taken, model, optimizer)
    assert isinstance(next(model.parameters()), DTensor)
    step()
    again = state.capture(model, optimizer)
    assert again.tensors.keys() == after.tensors.keys()
    assert all(torch.equal(again.tensors[name], value) for name, value in after.tensors.items())


@pytest.mark.parametrize(
    "draw", [lambda: torch.rand(3).tolist(), lambda: np.random.rand(3).tolist(), random.random], ids=["torch", "numpy", "python"]
)
def test_a_random_generator_goes_on_where_it_was(draw: Callable[[], object]) -> None:
    taken = json.loads(json.dumps(state.random_state()))
    expected = draw()
    draw()
    state.restore_random_state(taken)
    assert draw() == expected


def test_a_normal_number_kept_for_the_next_draw_is_kept() -> None:
    """numpy and python make normal numbers in pairs."""
    np.random.normal()
    random.gauss()
    taken = json.loads(json.dumps(state.random_state()))
    expected = np.random.normal(), random.gauss()
    state.restore_random_state(taken)
    assert (np.random.normal(), random.gauss()) == expected


def test_the_scale_of_the_loss_is_put_back() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    taken = state.capture(model, optimizer, torch.amp.GradScaler("cpu", init_scale=8.0))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    state.restore(taken, model, optimizer, scaler)
    assert scaler.get_scale() == 8.0


def test_the_moments_of_the_optimiser_are_put_back() -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    taken = state.capture(model, optimizer)
    other = nn.Linear(2, 1)
    restored = torch.optim.AdamW(other.parameters())
    state.restore(taken, other, restored)
    again = state.capture(other, restored)
    assert {name for name in again.tensors if name.startswith("optimizer/")}
    assert again.tensors.keys() == taken.tensors.keys()
    assert all(torch.equal(again.tensors[name], value) for name, value in taken.tensors.items())
