"""What accelerate launches: `accelerate launch -m pllava.train --params FILE`."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import Any

from pllava.errors import PllavaError


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pllava.train", description="Train LoRA and the projector (started by `pllava train`)")
    parser.add_argument("--params", default="params.yaml")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    from pllava.params import load_params
    from pllava.train.loop import run

    try:
        run(load_params(arguments.params))
    except KeyboardInterrupt:
        return 130
    except PllavaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _interrupt(signum: int, frame: Any) -> None:
    """Asked to end, training unwinds: its MLflow run is closed, no half-written folder stays."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
