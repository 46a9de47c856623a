"""Samplers, collation and image readers shared by all modalities."""
