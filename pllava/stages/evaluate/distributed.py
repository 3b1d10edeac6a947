"""Several processes share the questions: `accelerate launch -m pllava.stages.evaluate`, one process a GPU (or several on a CPU).

Process r of N answers every N-th of the remaining units. All write to one prediction log, so N processes give the same result as one, and
a killed run can resume with another number of processes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pllava.core.errors import PllavaError
from pllava.core.files import write_json
from pllava.core.processes import run_tree

if TYPE_CHECKING:
    from pllava.core.params import Params


class WorkerSpec(NamedTuple):
    """Files that tell the worker processes what to do. They lie beside the prediction log, so each evaluation has its own."""

    params: Path  # JSON is YAML, so load_params reads it
    units: Path  # JSON list of unit numbers


def worker_spec(journal: Path) -> WorkerSpec:
    """Paths of the worker files of the evaluation that writes to `journal`."""
    return WorkerSpec(journal.with_suffix(".params.json"), journal.with_suffix(".units.json"))


def answer_in_processes(params: Params, benchmark: str, limit: int | None, journal: Path, units: Sequence[int], processes: int) -> None:
    """Answer `units` in worker processes, which write to the prediction log `journal`.

    Raises PllavaError when a process fails; the answers so far stay in the log.
    """
    files = worker_spec(journal)
    write_json(files.params, params.model_dump(mode="json"))
    write_json(files.units, list(units))
    try:
        code = run_tree(command(benchmark, limit, journal, processes), _environment())
    finally:
        for file in files:
            file.unlink(missing_ok=True)
    if code != 0:
        raise PllavaError(
            f"evaluation in {processes} processes ended with exit code {code}; the reason is printed above. "
            f"Answers so far are kept: run `pllava evaluate {benchmark}` again"
        )


def command(benchmark: str, limit: int | None, journal: Path, processes: int) -> list[str]:
    """The command line that starts the worker processes."""
    threads, files = max(1, (os.cpu_count() or 1) // processes), worker_spec(journal)
    return [
        *(
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--multi_gpu",
        ),  # with --cpu, accelerate ignores --num_processes and starts one process
        *("--num_machines", "1", "--num_processes", str(processes), "--main_process_port", "0"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", str(threads)),
        *("-m", "pllava.stages.evaluate", benchmark, "--params", str(files.params), "--journal", str(journal), "--units", str(files.units)),
        *(("--limit", str(limit)) if limit else ()),
    ]


def _environment() -> dict[str, str]:
    import torch

    on_cpu = {} if torch.cuda.is_available() else {"ACCELERATE_USE_CPU": "true"}
    return {**os.environ, **on_cpu, "TOKENIZERS_PARALLELISM": "false"}
