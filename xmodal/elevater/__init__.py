"""Judging an encoder on many image data sets with one protocol, after ELEVATER (arXiv 2204.08790)."""
