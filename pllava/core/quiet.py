"""Environment variables that keep programs quiet: `QUIET`. A caller sets those that the user has not set."""

from pathlib import Path

_LINES = Path(__file__).with_name("quiet.env").read_text().splitlines()
QUIET = dict(line.split("=", 1) for line in _LINES if not line.startswith("#"))
