"""Captions of many videos, and of long ones scene by scene."""
