"""From a file to frames: which frames (sampling) and how they are decoded (reader)."""
