"""The command that accelerate launches in each process: `accelerate launch -m pllava.stages.train --params FILE`."""

from __future__ import annotations

import argparse
import sys

from pllava.core.errors import PllavaError


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m pllava.stages.train", description="Train LoRA and the projector (started by `pllava train`)"
    )
    parser.add_argument("--params", default="params.yaml")
    parser.add_argument("--fresh", action="store_true", help="drop an unfinished training")
    arguments = parser.parse_args()
    from pllava.core.signals import EXIT_CODE, Stopped, StopRequest, end_with_parent

    end_with_parent()
    with StopRequest().listen() as early:  # importing torch takes seconds, and the loop listens only after it
        from pllava.core.params import load_params
        from pllava.stages.train.loop import run
    if early.made:
        return EXIT_CODE
    try:
        run(load_params(arguments.params), arguments.fresh)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return EXIT_CODE
    except KeyboardInterrupt:
        return 130
    except PllavaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
