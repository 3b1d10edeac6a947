"""The Accelerator of a run: one process, several processes on CPU or GPUs, FSDP2, or DeepSpeed.

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
    """The Accelerator as the launcher and `train` configure it. Raises PllavaError for FSDP of the first version."""
    # The buffers are constants (rotary frequencies, positions). Broadcasting them in every forward pass would make a process wait for
    # another one that has no validation batch.
    no_broadcast = DistributedDataParallelKwargs(broadcast_buffers=False)
    accelerator = Accelerator(mixed_precision=train.mixed_precision, kwargs_handlers=[no_broadcast])
    if accelerator.distributed_type == DistributedType.MULTI_CPU and parse_flag_from_env("ACCELERATE_USE_FSDP"):
        _enable_fsdp_on_cpu(accelerator)
    if accelerator.distributed_type == DistributedType.FSDP:
        _configure_fsdp(accelerator.state.fsdp_plugin, train)
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None:
        # DeepSpeed would take these from a data loader, which it does not get. The loop accumulates micro-batches and scales the loss.
        plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": train.batch_size // (train.gradient_accumulation * accelerator.num_processes),
            "gradient_accumulation_steps": 1,
            "gradient_clipping": train.max_grad_norm,
        }
    return accelerator


def sharing(accelerator: Accelerator) -> str | None:
    """How the processes split the weights or the optimiser's state: "FSDP2", "ZeRO-2", "ZeRO-3", or None."""
    if accelerator.distributed_type == DistributedType.FSDP:
        return "FSDP2"
    plugin = accelerator.state.deepspeed_plugin
    return None if plugin is None else f"ZeRO-{plugin.zero_stage}"


def holds_parts(accelerator: Accelerator) -> bool:
    """Whether a process holds only a part of each weight. Then every process must run each layer equally often, or they wait for ever."""
    return sharing(accelerator) in ("FSDP2", "ZeRO-3")


@contextmanager
def tower_kept_whole(base: Any, accelerator: Accelerator) -> Iterator[None]:
    """Hide the frozen vision tower from `accelerator.prepare`, so that every process keeps all of it (0.6 GB in 16 bits).

    The tower runs outside of the model's forward. Processes may run it unequally often: one has videos where another has stills.
    """
    if not holds_parts(accelerator):
        yield
        return
    tower, base.model.vision_tower = base.model.vision_tower, None
    yield
    base.model.vision_tower = tower.to(accelerator.device)


def _enable_fsdp_on_cpu(accelerator: Accelerator) -> None:
    """Switch FSDP on, which accelerate silently ignores on a CPU. It lets a user try a run on a CPU before paying for GPUs."""
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState().distributed_type = DistributedType.FSDP  # accelerate resets accelerator.state to it


def _configure_fsdp(plugin: Any, train: Train) -> None:
    """Set the dtypes of FSDP2. Raises PllavaError for FSDP of the first version."""
    if plugin.fsdp_version != 2:
        raise PllavaError("accelerate was told to use FSDP of the first version. Set fsdp_version: 2 in the fsdp_config of its file")
    from torch.distributed.fsdp import MixedPrecisionPolicy

    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")  # the loop does not change the output
    if dtype := COMPUTE.get(train.mixed_precision):  # accelerate would also reduce the gradients and the loss in 16 bits
        plugin.mixed_precision_policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
