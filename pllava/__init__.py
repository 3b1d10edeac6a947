"""PLLaVA: an image-language model taken to video by pooling its frame features (arXiv 2404.16994)."""
