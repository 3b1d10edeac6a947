"""From a file to frames: `sampling` chooses the frames, `reader` decodes them."""
