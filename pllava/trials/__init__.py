"""Studies: one setting varied over several seeds, `pllava study spatial`."""
