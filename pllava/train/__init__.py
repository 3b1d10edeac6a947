"""Training: `pllava train` starts `accelerate launch -m pllava.train`, the loop is `pllava.train.loop`."""
