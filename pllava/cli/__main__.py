"""`python -m pllava.cli`, the same as `pllava`."""

from pllava.cli import main

main()
