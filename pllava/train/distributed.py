"""The Accelerator of a run, whatever launched it: one process, several on CPU or GPUs, FSDP2, DeepSpeed.

accelerator = make_accelerator(params.train)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

if TYPE_CHECKING:
    from pllava.params import Train


def make_accelerator(train: Train) -> Accelerator:
    """DeepSpeed is told what params.yaml says: it does accumulation and clipping itself and would guess the micro-batch from a loader."""
    # The buffers are constants (rotary frequencies, positions). Sent around in every forward pass they make a process wait for one that
    # has no validation batch.
    plain = DistributedDataParallelKwargs(broadcast_buffers=False)
    accelerator = Accelerator(mixed_precision=train.mixed_precision, kwargs_handlers=[plain])
    plugin = accelerator.state.deepspeed_plugin
    if plugin is not None:
        plugin.deepspeed_config |= {
            "train_micro_batch_size_per_gpu": train.batch_size // (train.gradient_accumulation * accelerator.num_processes),
            "gradient_accumulation_steps": train.gradient_accumulation,
            "gradient_clipping": train.max_grad_norm,
        }
    return accelerator
