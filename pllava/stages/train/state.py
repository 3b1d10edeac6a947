"""The state of a training between two steps, as tensors and plain values, without pickle: `capture(...)` and `restore(...)`.

`restore` brings back the captured trained parameters and optimiser moments to the bit. `random_state` and `restore_random_state` do the
same for the random generators of torch (all devices), numpy and python.

FSDP2 and DeepSpeed split tensors between the processes. `capture`, `weights` and `restore` work on whole tensors, so every process must
call them.
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


def capture(model: nn.Module, optimizer: torch.optim.Optimizer | None, scaler: Any = None) -> State:
    """Copies, on the CPU, of the trained parameters, the optimiser's moments and the loss scaler's values.

    The random state is not among them: each process has its own (`random_state`).
    """
    tensors = {f"model/{name}": cpu_copy(parameter) for name, parameter in trainable_parameters(model).items()}
    for number, entry in (optimizer.state_dict()["state"] if optimizer else {}).items():
        tensors |= {f"optimizer/{number}/{key}": cpu_copy(value) for key, value in entry.items()}
    return State(tensors, {"scaler": scaler.state_dict() if scaler is not None else {}})


def restore(state: State, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any = None) -> None:
    """Write a captured state into a model, its optimiser and its loss scaler."""
    load_weights({name.removeprefix("model/"): value for name, value in state.tensors.items() if name.startswith("model/")}, model)
    optimizer_state: dict[int, dict[str, Tensor]] = {}  # parameter number -> its moments and count of steps
    for name, value in state.tensors.items():
        if name.startswith("optimizer/"):
            _, number, key = name.split("/")
            optimizer_state.setdefault(int(number), {})[key] = value
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, moments in optimizer_state.items():
        optimizer_state[index] = {key: shard_like(parameters[index], value) for key, value in moments.items()}
    optimizer.load_state_dict({"state": optimizer_state, "param_groups": optimizer.state_dict()["param_groups"]})
    if scaler is not None and state.values["scaler"]:
        scaler.load_state_dict(state.values["scaler"])


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters of a model by name."""
    for module in model.modules():
        if isinstance(module, FSDPModule):  # after a forward pass a module may still hold gathered weights in the compute dtype
            module.reshard()
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the trained parameters."""
    return {name: cpu_copy(parameter) for name, parameter in trainable_parameters(model).items()}


def load_weights(values: Mapping[str, Tensor], model: nn.Module) -> None:
    """Write whole tensors, by name, into the trainable parameters of a model."""
    with torch.no_grad():
        for name, parameter in trainable_parameters(model).items():
            parameter.copy_(shard_like(parameter, values[name]))


def cpu_copy(tensor: Tensor) -> Tensor:
    """A contiguous copy of the whole tensor on the CPU."""
    return gather(tensor).detach().to("cpu", copy=True).contiguous()


def gather(tensor: Tensor) -> Tensor:
    """The whole tensor, gathered from the processes that hold its parts. For a parameter of DeepSpeed: its fp32 master copy."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    if hasattr(tensor, "ds_id") or hasattr(tensor, "_hp_mapping"):  # `deepspeed.utils` recognises its parameters by these attributes
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(tensor)
    return tensor


def weight_counts(model: nn.Module) -> tuple[int, int]:
    """(number of weights in this process, number of weights in the model)."""
    parameters = list(model.parameters())
    local = sum((parameter.to_local() if isinstance(parameter, DTensor) else parameter).numel() for parameter in parameters)
    return local, sum(parameter.numel() for parameter in parameters)


def shard_like(parameter: Tensor, value: Tensor) -> Tensor:
    """This process's shard of `value`, split as the parameter is. A value of another shape (AdamW's count of steps) is returned whole."""
    if not isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None)


def random_state() -> Rng:
    """The state of this process's random generators, in types that JSON can hold."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    return {
        "torch": _hex(torch.get_rng_state()),
        "cuda": [_hex(state) for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "numpy": [kind, np.asarray(keys).tolist(), position, has_gauss, cached],
        "python": [version, list(internal), gauss],
    }


def restore_random_state(state: Rng) -> None:
    """Set this process's random generators to a state from `random_state`."""
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
