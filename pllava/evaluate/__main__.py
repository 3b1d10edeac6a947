"""What accelerate launches in each process: `accelerate launch -m pllava.evaluate mvbench --params FILE`."""

from __future__ import annotations

import argparse
import sys

from pllava.errors import PllavaError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pllava.evaluate", description="Answer a share of a benchmark's questions")
    parser.add_argument("benchmark")
    parser.add_argument("--params", default="params.yaml")
    parser.add_argument("--limit", type=int, default=None)
    arguments = parser.parse_args()
    from accelerate import PartialState

    from pllava.evaluate.runner import answer_share
    from pllava.params import load_params

    state = PartialState()
    try:
        answer_share(
            load_params(arguments.params), arguments.benchmark, arguments.limit, state.process_index, state.num_processes, state.device
        )
    except PllavaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        state.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
