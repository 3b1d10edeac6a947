"""Captions of many videos, and of long videos scene by scene."""
