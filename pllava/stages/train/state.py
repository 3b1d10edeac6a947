"""All that the next step depends on, as tensors and plain values: no pickle. `take(...)` gives what `put_back(...)` restores to the bit.

Model: the trained parameters. Optimiser: its moments. Random state: torch (all devices), numpy, python. Data position: the step.

What the processes share out (FSDP2, DeepSpeed) is gathered: then every process must call `take`, `weights` and `put_back`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

Rng = dict[str, Any]


@dataclass
class State:
    """`tensors` go to a safetensors file, `values` to JSON."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


def take(model: nn.Module, optimizer: torch.optim.Optimizer | None, scaler: Any = None) -> State:
    """Copies on the CPU, but not of the random state (`random_state`), which each process has of its own."""
    tensors = {f"model/{name}": copied(parameter) for name, parameter in trained(model).items()}
    for number, entry in (optimizer.state_dict()["state"] if optimizer else {}).items():
        tensors |= {f"optimizer/{number}/{key}": copied(value) for key, value in entry.items()}
    return State(tensors, {"scaler": scaler.state_dict() if scaler is not None else {}})


def put_back(state: State, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any = None) -> None:
    put_weights({name.removeprefix("model/"): value for name, value in state.tensors.items() if name.startswith("model/")}, model)
    found: dict[int, dict[str, Tensor]] = {}
    for name, value in state.tensors.items():
        if name.startswith("optimizer/"):
            _, number, key = name.split("/")
            found.setdefault(int(number), {})[key] = value
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, moments in found.items():
        found[index] = {key: shared_as(parameters[index], value) for key, value in moments.items()}
    optimizer.load_state_dict({"state": found, "param_groups": optimizer.state_dict()["param_groups"]})
    if scaler is not None and state.values["scaler"]:
        scaler.load_state_dict(state.values["scaler"])


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    for module in model.modules():
        if isinstance(module, FSDPModule):  # after a forward pass some hold gathered weights, rounded to what is computed in
            module.reshard()
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the trained parameters."""
    return {name: copied(parameter) for name, parameter in trained(model).items()}


def put_weights(values: Mapping[str, Tensor], model: nn.Module) -> None:
    with torch.no_grad():
        for name, parameter in trained(model).items():
            parameter.copy_(shared_as(parameter, values[name]))


def copied(tensor: Tensor) -> Tensor:
    return whole(tensor).detach().to("cpu", copy=True).contiguous()


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; of DeepSpeed's parameters the fp32 master, which its 16-bit model is a copy of."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    if hasattr(tensor, "ds_id") or hasattr(tensor, "_hp_mapping"):  # as `deepspeed.utils` tells its own
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(tensor)
    return tensor


def share(model: nn.Module) -> tuple[int, int]:
    """(weights in this process, in all)."""
    parameters = list(model.parameters())
    here = sum((parameter.to_local() if isinstance(parameter, DTensor) else parameter).numel() for parameter in parameters)
    return here, sum(parameter.numel() for parameter in parameters)


def shared_as(parameter: Tensor, value: Tensor) -> Tensor:
    """This process's part of a whole value, as it has one of the parameter. AdamW's count of steps is no such value."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None)


def random_state() -> Rng:
    """Of this process, as JSON holds it."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": _hex(torch.get_rng_state()),
        "cuda": [_hex(state) for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "numpy": [kind, np.asarray(keys).tolist(), position, has_gauss, cached],
        "python": [version, list(internal), gauss],
    }


def put_random_state(state: Rng) -> None:
    torch.set_rng_state(_bytes(state["torch"]))
    if state["cuda"]:
        torch.cuda.set_rng_state_all([_bytes(device) for device in state["cuda"]])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))


def _hex(state: Tensor) -> str:
    return bytes(state.cpu().numpy()).hex()


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
