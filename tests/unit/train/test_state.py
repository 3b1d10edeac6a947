"""What FSDP2 shares out is read whole, in full precision, and put back."""

from __future__ import annotations

from collections.abc import Iterator

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
