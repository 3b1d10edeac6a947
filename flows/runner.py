"""Where the tasks of a flow run: threads or processes of this machine, or a Ray cluster."""

import os
from typing import Any, Literal

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from flows import ROOT
from pllava.core.errors import PllavaError

Runner = Literal["thread", "process", "ray"]


def task_runner(kind: Runner, workers: int, ray_address: str | None = None) -> TaskRunner[Any]:
    """The task runner of this kind. Raises PllavaError when Ray is not installed.

    ray_address: a running cluster; None: that of RAY_ADDRESS, else Ray starts one on this machine and ends it.
    """
    if kind == "thread":
        return ThreadPoolTaskRunner(max_workers=workers)
    if kind == "process":
        return ProcessPoolTaskRunner(max_workers=workers)
    try:
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise PllavaError(f"runner 'ray' needs an extra that is not installed ({error.name}): pip install 'pllava[ray]'") from None
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    options: dict[str, Any] = {"runtime_env": {"env_vars": {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"}}}
    address = ray_address or os.environ.get("RAY_ADDRESS")
    if not address:
        options |= {"num_cpus": workers, "include_dashboard": False, "log_to_driver": False}
    return RayTaskRunner(address=address, init_kwargs=options)
