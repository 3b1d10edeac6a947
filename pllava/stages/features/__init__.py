"""Stage `features`: the frozen vision tower runs once over each distinct clip."""
