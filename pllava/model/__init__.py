"""The model: vision tower -> projector and pooling -> language model (arXiv 2404.16994, figure 3)."""
