"""Training: `pllava train` starts `accelerate launch -m pllava.stages.train`, the loop is `pllava.stages.train.loop`."""
