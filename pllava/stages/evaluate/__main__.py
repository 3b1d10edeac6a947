"""What accelerate launches in each process: `accelerate launch -m pllava.stages.evaluate mvbench --params FILE`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pllava.core.errors import PllavaError

LOCK_SECONDS = 60  # an earlier process on the same log may still be shutting down after its command was killed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pllava.stages.evaluate", description="Answer a share of a benchmark's questions")
    parser.add_argument("benchmark")
    parser.add_argument("--params", default="params.yaml")
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--units", type=Path, required=True, help="JSON list of unit numbers, the same for all processes")
    parser.add_argument("--limit", type=int, default=None)
    arguments = parser.parse_args()
    from pllava.core.signals import end_with_parent

    end_with_parent()
    from accelerate import PartialState

    from pllava.core.files import read_json
    from pllava.core.params import load_params
    from pllava.stages.evaluate.prediction_log import alone
    from pllava.stages.evaluate.run import answer_share, make_job

    state = PartialState()
    try:
        params = load_params(arguments.params)
        job = make_job(params, arguments.benchmark, arguments.limit, arguments.journal)
        with alone(job.journal, LOCK_SECONDS, state.process_index):
            answer_share(params, job, read_json(arguments.units), state.process_index, state.num_processes, state.device)
    except PllavaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        state.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
