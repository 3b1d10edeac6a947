"""Captions of long video: scenes, one caption each, and subtitle files."""
