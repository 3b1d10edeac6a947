"""The Accelerator of a run, whatever launched it: one process, several on CPU or GPUs, FSDP2, DeepSpeed.

accelerator = make_accelerator(params.train)
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, FullyShardedDataParallelPlugin, parse_flag_from_env

from pllava.core.errors import PllavaError

if TYPE_CHECKING:
    from pllava.core.params import Train

COMPUTE = {"bf16": torch.bfloat16, "fp16": torch.float16}


def make_accelerator(train: Train) -> Accelerator:
    """Raises PllavaError for FSDP of the first version."""
    # The buffers are constants (rotary frequencies, positions). Sent around in every forward pass they make a process wait for one that
    # has no validation batch.
    plain = DistributedDataParallelKwargs(broadcast_buffers=False)
    accelerator = Accelerator(mixed_precision=train.mixed_precision, kwargs_handlers=[plain])
    if accelerator.distributed_type == DistributedType.MULTI_CPU and parse_flag_from_env("ACCELERATE_USE_FSDP"):
        _share_out_on_cpu(accelerator)
    if accelerator.distributed_type == DistributedType.FSDP:
        _settle_fsdp(accelerator.state.fsdp_plugin, train)
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None:  # it would guess these from a loader it is not given; the loop sums up micro-batches and scales the loss itself
        plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": train.batch_size // (train.gradient_accumulation * accelerator.num_processes),
            "gradient_accumulation_steps": 1,
            "gradient_clipping": train.max_grad_norm,
        }
    return accelerator


def sharing(accelerator: Accelerator) -> str | None:
    """What the processes share out beyond the data: "FSDP2", "ZeRO-2", "ZeRO-3", or None."""
    if accelerator.distributed_type == DistributedType.FSDP:
        return "FSDP2"
    plugin = accelerator.state.deepspeed_plugin
    return None if plugin is None else f"ZeRO-{plugin.zero_stage}"


def holds_parts(accelerator: Accelerator) -> bool:
    """Whether a process holds but a part of each weight: then all must run every layer equally often, or they wait for each other."""
    return sharing(accelerator) in ("FSDP2", "ZeRO-3")


@contextmanager
def tower_kept_whole(base: Any, accelerator: Accelerator) -> Iterator[None]:
    """Around `accelerator.prepare`: every process keeps the frozen tower (0.6 GB in 16 bits), which runs apart from the model's forward,
    and not equally often where one process has videos and another stills."""
    if not holds_parts(accelerator):
        yield
        return
    tower, base.model.vision_tower = base.model.vision_tower, None
    yield
    base.model.vision_tower = tower.to(accelerator.device)


def _share_out_on_cpu(accelerator: Accelerator) -> None:
    """accelerate leaves FSDP out on a CPU without a word, though torch can do it: so a run is tried out before GPUs are paid for."""
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState().distributed_type = DistributedType.FSDP  # what the other is brought back to whenever it is asked for


def _settle_fsdp(plugin: Any, train: Train) -> None:
    if plugin.fsdp_version != 2:
        raise PllavaError("accelerate was told to use FSDP of the first version. Set fsdp_version: 2 in the fsdp_config of its file")
    from torch.distributed.fsdp import MixedPrecisionPolicy

    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")  # nobody changes what the model returns
    if dtype := COMPUTE.get(train.mixed_precision):  # accelerate would sum gradients and give the loss in 16 bits, too
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
