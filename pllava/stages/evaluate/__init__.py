"""Stage `evaluate`: three models (base, single frame, adapted) answer every question of a benchmark, and the answers are scored."""
