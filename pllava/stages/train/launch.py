"""`pllava train`: run the loop under `accelerate launch`. Its process tree ends when this process gets a request to end."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

from pllava.artifacts.training import OUTPUT
from pllava.core import shipped
from pllava.core.errors import PllavaError
from pllava.core.files import state_folder
from pllava.core.processes import run_tree

if TYPE_CHECKING:
    from pllava.core.params import Params

STATE = Path(".state/train")


def train(params: Params, fresh: bool = False) -> Path:
    """Train as params say, or continue a stopped training. Returns outputs/train. The loop prints to this process's streams.

    fresh: drop an unfinished training. Raises PllavaError when the loop fails.
    """
    state_folder(STATE)
    # Each command writes its own params file, so that a second command cannot change it before the processes have read it. JSON is YAML.
    with NamedTemporaryFile("w", prefix="params-", suffix=".json", dir=STATE) as file:
        file.write(params.model_dump_json())
        file.flush()
        code = run_tree(command(params, file.name, fresh), _environment(params), params.run.stop_seconds)  # time to save a checkpoint
    if code != 0:
        raise PllavaError(f"training ended with exit code {code}; the reason is printed above. {OUTPUT} is as it was")
    return OUTPUT


def command(params: Params, file: str, fresh: bool = False) -> list[str]:
    """The argument list of `accelerate launch`; `file` holds the params.

    Without train.accelerate one process runs for each GPU, or one on the CPU when there is no GPU.
    """
    if params.train.accelerate is not None:
        accelerate_config(params.train.accelerate)
        launcher = ["--config_file", str(shipped.locate(params.train.accelerate))]
    else:
        import torch

        gpus = torch.cuda.device_count()
        launcher = ["--cpu"] if not gpus else ["--multi_gpu"] if gpus > 1 else []
        launcher += ["--num_machines", "1", "--num_processes", str(max(gpus, 1)), "--main_process_port", "0"]
    return [
        *(sys.executable, "-m", "accelerate.commands.launch", "--quiet"),  # accelerate prints no traceback below the reason
        *launcher,
        *("--mixed_precision", params.train.mixed_precision, "--dynamo_backend", "no"),
        *("--num_cpu_threads_per_process", str(params.train.threads or os.cpu_count() or 1)),
        *("-m", "pllava.stages.train", "--params", file),
        *(["--fresh"] if fresh else []),
    ]


def accelerate_config(file: Path) -> Any:
    """accelerate's config object of a file. Raises PllavaError when the file is missing or invalid, or needs a package not installed."""
    from importlib.util import find_spec

    from accelerate.commands.config.config_args import load_config_from_file

    try:
        config = load_config_from_file(str(shipped.locate(file)))
    except FileNotFoundError:
        raise PllavaError(f"train.accelerate {file} is not there. The shipped ones: recipes/accelerate/*.yaml") from None
    except Exception as error:  # errors of yaml, of accelerate's enums and of its dataclass
        raise PllavaError(f"train.accelerate {file} is no config of accelerate: {error}. Compare recipes/accelerate/*.yaml") from None
    if str(config.distributed_type.value) == "DEEPSPEED" and find_spec("deepspeed") is None:
        raise PllavaError(f"{file} needs DeepSpeed: pip install deepspeed. Without it: recipes/accelerate/7b-eight-gpus.yaml")
    if str(config.distributed_type.value) == "FSDP" and str(config.fsdp_config.get("fsdp_version", 1)) != "2":
        raise PllavaError(f"{file} asks for FSDP of the first version. Set fsdp_version: 2 in its fsdp_config")
    return config


def _environment(params: Params) -> dict[str, str]:
    file = params.train.accelerate
    # accelerate sets this for --cpu only, not for use_cpu in a config file.
    on_cpu = {"ACCELERATE_USE_CPU": "true"} if file is not None and accelerate_config(file).use_cpu else {}
    # cuBLAS gives equal bits in every run only with a fixed workspace.
    return {**os.environ, **on_cpu, "CUBLAS_WORKSPACE_CONFIG": ":4096:8", "TOKENIZERS_PARALLELISM": "false"}
