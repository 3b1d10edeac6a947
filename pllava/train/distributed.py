"""The Accelerator of a run, whatever launched it: one process, several on CPU or GPUs, FSDP2, DeepSpeed.

accelerator = make_accelerator(params.train)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType

from pllava.errors import PllavaError

if TYPE_CHECKING:
    from pllava.params import Train


def make_accelerator(train: Train) -> Accelerator:
    """Raises PllavaError where every process holds a part of each weight: nothing gathers them for the adapter yet."""
    # The buffers are constants (rotary frequencies, positions). Sent around in every forward pass they make a process wait for one that
    # has no validation batch.
    plain = DistributedDataParallelKwargs(broadcast_buffers=False)
    accelerator = Accelerator(mixed_precision=train.mixed_precision, kwargs_handlers=[plain])
    plugin = accelerator.state.deepspeed_plugin
    if accelerator.distributed_type == DistributedType.FSDP or (plugin is not None and plugin.zero_stage == 3):
        raise PllavaError(
            "FSDP and ZeRO-3 keep a part of each weight in every process, and nothing gathers them for the adapter yet: the run would be "
            "lost at its end. Use DDP or ZeRO-2 (recipes/accelerate/7b-eight-gpus.yaml, 7b-zero2.yaml), or model.quantization: 4bit"
        )
    if plugin is not None:  # it would guess these from a loader it is not given; the loop sums up micro-batches and scales the loss itself
        plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": train.batch_size // (train.gradient_accumulation * accelerator.num_processes),
            "gradient_accumulation_steps": 1,
            "gradient_clipping": train.max_grad_norm,
        }
    return accelerator
