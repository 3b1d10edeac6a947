"""Stage `prepare`: corpora and media become one checked manifest a split."""
