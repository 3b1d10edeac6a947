"""Browse and compare results of any benchmark and model in a browser: `pllava gallery outputs/evaluate`."""
