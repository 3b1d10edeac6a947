"""Stage `evaluate`: every question of a benchmark answered by base, one frame and adapted model, and scored."""
